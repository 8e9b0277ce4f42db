"""The evidence behind the pages of docs/: what is trained, how it is asked, and what a person wrote of it.

A page is three things, and the engine knows none of them by name:

    evidence/<page>.py                     its rows, and what else its template needs
    evidence/templates/<page>.md.jinja     its text, which a person wrote; numbers are filled in
    results/<page>/<row>-seed<seed>.json   a file a run; a run that has its file is not repeated

The engine is `protocol` (what a run is), `making` (train and ask), `results` (read), `estimates` (several
seeds and many questions as one number), `pages` (fill in and write), `figures` and `costs`. Beyond accuracy,
`samples`, `guides` and a page's own measures say where a trained method looks, on pictures whose every pixel
is known (`seen`).

A sentence that states a finding stands in `{% claim CONDITION %}…{% endclaim %}`. When the numbers no longer
meet the condition, the page is not written, and the error names the sentence.
"""
