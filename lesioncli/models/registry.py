"""The table of networks by ModelSpec.network. To add one, write a file with a NetworkType and add a line here."""

from lesioncli.errors import InputError
from lesioncli.models import mbdcnn, multitask
from lesioncli.models.network import NetworkType, Stage

NETWORKS: dict[str, NetworkType] = {
    "multitask": multitask.NETWORK,
    "mbdcnn": mbdcnn.NETWORK,
}


def find_network(name: str) -> NetworkType:
    """The network of that name; InputError lists those that exist."""
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is not one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def find_stage(network: str, name: str) -> Stage:
    """A network's stage of that name; InputError lists those that it has."""
    stages = find_network(network).stages
    for stage in stages:
        if stage.name == name:
            return stage
    raise InputError(f"{network} has no stage {name!r}; it has {', '.join(stage.name for stage in stages)}")
