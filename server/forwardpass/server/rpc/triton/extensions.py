"""All that the server can do for Triton's clients beyond the six RPCs."""

from forwardpass.server.config import Config
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.repository.control import Changes
from forwardpass.server.rpc.method import Extension
from forwardpass.server.rpc.peers import Peers
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.rpc.triton.log_settings import log_settings
from forwardpass.server.rpc.triton.model_config import model_configuration
from forwardpass.server.rpc.triton.model_control import ModelControl
from forwardpass.server.rpc.triton.model_statistics import model_statistics
from forwardpass.server.rpc.triton.shared_memory import cuda_shared_memory, shared_memory
from forwardpass.server.rpc.triton.unsupported import unsupported


def triton_extensions(
    config: Config,
    catalog: Catalog,
    control: Changes,
    queue: QueueLimits,
    regions: Regions,
    peers: Peers,
) -> list[Extension]:
    """Return them in the order in which ServerMetadata lists them."""
    return [
        model_configuration(catalog, config.versions, queue),
        model_statistics(catalog, peers),
        ModelControl(catalog, control, allowed=config.model_control).extension(),
        shared_memory(regions),
        cuda_shared_memory(),
        log_settings(peers),
        unsupported(),
    ]
