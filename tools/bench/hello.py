"""The hello world of tools/bench/cluster.py: a function that POSTs its event's body to a server, and nothing else."""

import os
import urllib.request

import flask
import functions_framework


@functions_framework.http
def hello(request: flask.Request) -> flask.Response:
    forwarded = urllib.request.Request(os.environ["TO"], request.get_data(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(forwarded, timeout=30) as answer:
        answer.read()
    return flask.Response(status=204)
