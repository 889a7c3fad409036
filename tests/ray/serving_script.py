"""`python -m tests.ray.serving_script CONFIG PORT`: serve on a running cluster, with a proxy on every host."""

from __future__ import annotations

import sys

import ray
from ray import serve

from hybridmu.cluster.announcements import APPLICATION
from hybridmu.config import load
from serve.app import build

if __name__ == "__main__":
    config, port = sys.argv[1:]
    ray.init(address=load(config).cluster.address, namespace="hybridmu")
    serve.start(proxy_location="EveryNode", http_options={"host": "0.0.0.0", "port": int(port)})
    serve.run(build({"config": config, "replicas": "2"}), name=APPLICATION, route_prefix="/")
