"""How compression is done to an unmodified Hugging Face model. Hosts know models and no method.

attach     compress, restore, and what hangs on the model in between
before     before the language model: features out, marked and dropped columns in
inside     inside it: the sequence gets shorter before decoder layer K
glance     the few attention rows and keys that methods ask for
positions  which columns stay, and what that does to positions, masks and shapes
flow       what one forward pass, and one generation, know of their visual tokens
traits     what differs between model families, found by attribute
saving     what a checkpoint says of its compressor
trace      what became of each image, to look at
"""
