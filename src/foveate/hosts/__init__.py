"""How compression is done to an unmodified Hugging Face model. Hosts know models and no method.

To attach and take off:

attach     compress and restore
attachment what hangs on the model in between
switches   what compress is told beside the method
checks     what compress refuses, and why
support    whether a compressor can act on a model, and what is different there
traits     what differs between model families, found by attribute
connectors what stands between tower and language model, taken apart
twins     second models on the same weights, smaller ones too
versions   which transformers this is

The way of a tensor, in its order (docs/site/way-of-a-tensor.md):

hooks      when something is done: the moments of a forward pass
flow       what one forward pass, and one generation, know of their visual tokens
calls      calls that compression would get wrong, refused by name
encode     features out, and what compressors need to see of the vision tower
watched    the base model as its own feature functions see it, with more channels to carry
within     inside the vision tower: fewer tokens before block l, and back to the width it had
glance     the few attention rows and keys that methods ask for
grids      where patches stand, and how a tower's tokens merge into them
rows       images and videos as compressors see them, one row each
newlines   newline embeddings behind rows of patches
asked      what the user asked, in columns and in words; never an answer
samples    what random draws follow, and by what they tell images apart
before     compressors on the images, before the language model
context    what a compressor may look at, and a note of what it did
drop       dropped columns out of the prompt
positions  which columns stay, and what that does to positions, masks and shapes
inside     inside the language model: the sequence gets shorter before decoder layer K
proportional  a merged token is looked at as often as it carries patches
later      decoding and later turns on the cache of a compressed prompt
learnt     the head where labels are learnt, and nowhere else
trace      what became of each image, to look at

To read and write:

reading    the one place that reads models, processors and configs, and runs no code of theirs
files      the files of a saved model, and what is broken in them
whole      whether what was read is a whole model
saving     what a checkpoint says of its compressor
assemble   a new LLaVA from a tower and a language model
features   images in, compressed tokens out, without a prompt: for engines
videos     the frames of a video that a processor asks for
entering   images and questions in, what enters the language model out: for engines
clip       a whole CLIP: what a LMM left of it behind
protocol   how papers ask, which checkpoints do not say
cost       what a prefill costs, part by part
"""
