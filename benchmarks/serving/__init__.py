"""The whole way, HTTP in to HTTP out: headrace and its peers, in turn, under the same load."""
