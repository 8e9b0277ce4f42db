"""Our own server: OpenAI's chat interface and a page, in front of one model that answers in batches.

limits    what a server takes on, and how it says no
wire      OpenAI's requests and answers, as they are written
guard     who may come in, and how much and how slowly one may send and read
app       the routes
pictures  a request's pictures: out of data URLs, or fetched where that is allowed
choice    the method and budget that a request asks for
reader    a request made ready for the model
rows      the rows of a batch: each is drawn, ended and told by itself
engine    the thread that owns the model, and what waits for it
generating  a batch answered by the model itself
front     a batch answered by a vLLM behind, from what enters the language model
meters    what Prometheus reads
page      what a person sees at /
run       one process
replicas  several, on a Ray cluster
"""
