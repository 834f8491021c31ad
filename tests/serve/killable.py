"""Servers to be killed: `python killable.py FOLDER` starts one for each line it reads, and prints its process and port.

They are forked after the slow imports, so that a test can kill several.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)

import uvicorn  # noqa: E402

from diekae.serve import create_app  # noqa: E402
from diekae.store.embedders import static_embedder  # noqa: E402
from tiny_served_model import make_served_model  # noqa: E402


def serve(folder: Path) -> None:
    """Serve in this process until it is killed or told to end."""
    app = create_app(make_served_model(), name="tiny", store=folder / "store", edits=folder / "edits")
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    socket = config.bind_socket()
    print(os.getpid(), socket.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    static_embedder()
    for _ in sys.stdin:
        if os.fork() == 0:
            serve(Path(sys.argv[1]))
            os._exit(0)
