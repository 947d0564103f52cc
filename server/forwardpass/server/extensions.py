"""All that the server can do for Triton's clients beyond the six RPCs."""

from forwardpass.server.batching import QueueLimits
from forwardpass.server.catalog import Catalog
from forwardpass.server.config import Config
from forwardpass.server.lifecycle import Lifecycle
from forwardpass.server.log_settings import log_settings
from forwardpass.server.model_config import model_configuration
from forwardpass.server.model_control import ModelControl
from forwardpass.server.model_statistics import model_statistics
from forwardpass.server.regions import Regions
from forwardpass.server.rpc import Extension
from forwardpass.server.shared_memory import shared_memory
from forwardpass.server.unsupported import unsupported


def triton_extensions(
    config: Config,
    catalog: Catalog,
    lifecycle: Lifecycle,
    queue: QueueLimits,
    regions: Regions,
) -> list[Extension]:
    """Return them in the order in which ServerMetadata lists them."""
    return [
        model_configuration(catalog, config.versions, queue),
        model_statistics(catalog),
        ModelControl(catalog, lifecycle, allowed=config.model_control).extension(),
        shared_memory(regions),
        log_settings(),
        unsupported(),
    ]
