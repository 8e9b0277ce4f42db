"""Our own server: OpenAI's chat interface and a page, in front of one model that answers in batches.

limits    what a server takes on, and what it refuses
wire      OpenAI's requests and answers, as they are written
pictures  a request's pictures: out of data URLs, or fetched where that is allowed
choice    the method and budget that a request asks for
rows      the rows of a batch: each is drawn, ended and told by itself
engine    the thread that owns the model, and what waits for it
meters    what Prometheus reads
app       the routes
page      what a person sees at /
guard     who may come in, and how much and how slowly one may send and read
reader    requests made ready for the model
run       one process
replicas  several, on a Ray cluster
"""
