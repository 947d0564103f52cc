"""The networks that the benchmarks run.

Usage: python -m benchmarks.networks FOLDER writes them there, for a server to compare with.
"""

import sys
from pathlib import Path

from forwardpass.models import Network, publish

NETWORKS = {
    "tiny": Network.chain([3, 3, 1], "sigmoid", "sigmoid", name="tiny"),
    "small": Network.chain([30, 64, 32, 2], "relu", "sigmoid", name="small"),
    "large": Network.chain([784, 512, 512, 10], "relu", "softmax", name="large"),
}
"""3-3-1, 30-64-32-2 and 784-512-512-10."""


def publish_all(repository: Path) -> dict[str, Path]:
    """Publish every network; return the file of each."""
    return {name: publish(network, repository).path for name, network in NETWORKS.items()}


if __name__ == "__main__":
    publish_all(Path(sys.argv[1]))
