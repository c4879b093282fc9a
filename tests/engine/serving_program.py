"""A server of a toy model in a process of its own: prints its address, ends with SIGTERM."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving_support import bright_model

from detectron2.engine.serving import ServeLimits
from detectron2.engine.serving.app import create_app
from detectron2.engine.serving.server import make_server, run_server

if __name__ == "__main__":
    limits = ServeLimits(max_queue=256, max_bytes=200_000, read_timeout=1.0)
    server = make_server(create_app(bright_model(), limits), limits, "127.0.0.1", 0)
    run_server(server, lambda address: print(f"model on {address} (ready)", flush=True))
    print("Stopped", flush=True)
