"""Wires processes: the only room that names concrete classes and chooses seams.

Each function makes one thing that a verb or a program needs: a vault, a member's view of the network, a running node, a
running coordinator, or the files that these begin with. What is opened here is closed here. Modules are loaded when
one of their names is first used, so that no verb pays for another's imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.assemble.coordinators import CoordinatorRebuilt as CoordinatorRebuilt
    from holdfast.assemble.coordinators import backup_coordinator as backup_coordinator
    from holdfast.assemble.coordinators import copy_coordinator as copy_coordinator
    from holdfast.assemble.coordinators import init_coordinator as init_coordinator
    from holdfast.assemble.coordinators import make_coordinator as make_coordinator
    from holdfast.assemble.coordinators import rebuild_coordinator as rebuild_coordinator
    from holdfast.assemble.coordinators import recover_coordinator as recover_coordinator
    from holdfast.assemble.coordinators import restore_coordinator as restore_coordinator
    from holdfast.assemble.exchange import ExchangeClient as ExchangeClient
    from holdfast.assemble.exchange import fetch_url as fetch_url
    from holdfast.assemble.exchange import open_exchange as open_exchange
    from holdfast.assemble.homes import HomeMade as HomeMade
    from holdfast.assemble.homes import NetworkView as NetworkView
    from holdfast.assemble.homes import change_passphrase as change_passphrase
    from holdfast.assemble.homes import check_key as check_key
    from holdfast.assemble.homes import has_keys as has_keys
    from holdfast.assemble.homes import home_path as home_path
    from holdfast.assemble.homes import init_home as init_home
    from holdfast.assemble.homes import is_sealed as is_sealed
    from holdfast.assemble.homes import key_facts as key_facts
    from holdfast.assemble.homes import open_network as open_network
    from holdfast.assemble.homes import recovery_words as recovery_words
    from holdfast.assemble.leaving import leave as leave
    from holdfast.assemble.leaving import stay as stay
    from holdfast.assemble.machine import THIS_MACHINE as THIS_MACHINE
    from holdfast.assemble.machine import Machine as Machine
    from holdfast.assemble.node_stores import reserve_bytes as reserve_bytes
    from holdfast.assemble.nodes import NodeMade as NodeMade
    from holdfast.assemble.nodes import init_node as init_node
    from holdfast.assemble.nodes import make_node as make_node
    from holdfast.assemble.nodes import node_disks as node_disks
    from holdfast.assemble.nodes import node_facts as node_facts
    from holdfast.assemble.outboxes import home_counts as home_counts
    from holdfast.assemble.outboxes import open_outbox as open_outbox
    from holdfast.assemble.outboxes import outbox_counts as outbox_counts
    from holdfast.assemble.outboxes import outbox_metrics as outbox_metrics
    from holdfast.assemble.servers import Running as Running
    from holdfast.assemble.standby import init_standby as init_standby
    from holdfast.assemble.standby import make_coordinator_server as make_coordinator_server
    from holdfast.assemble.stores import check_store as check_store
    from holdfast.assemble.stores import copy_store as copy_store
    from holdfast.assemble.stores import make_store as make_store
    from holdfast.assemble.stores import scale_store as scale_store
    from holdfast.assemble.surroundings import free_ports as free_ports
    from holdfast.assemble.surroundings import space as space
    from holdfast.assemble.surroundings import time_syncs as time_syncs
    from holdfast.assemble.vaults import OpenVault as OpenVault
    from holdfast.assemble.vaults import open_vault as open_vault

_HOME = {
    "ExchangeClient": "exchange",
    "fetch_url": "exchange",
    "open_exchange": "exchange",
    "THIS_MACHINE": "machine",
    "Machine": "machine",
    "HomeMade": "homes",
    "NetworkView": "homes",
    "change_passphrase": "homes",
    "check_key": "homes",
    "has_keys": "homes",
    "home_path": "homes",
    "init_home": "homes",
    "is_sealed": "homes",
    "key_facts": "homes",
    "open_network": "homes",
    "recovery_words": "homes",
    "home_counts": "outboxes",
    "open_outbox": "outboxes",
    "outbox_counts": "outboxes",
    "outbox_metrics": "outboxes",
    "leave": "leaving",
    "stay": "leaving",
    "OpenVault": "vaults",
    "open_vault": "vaults",
    "Running": "servers",
    "NodeMade": "nodes",
    "init_node": "nodes",
    "make_node": "nodes",
    "node_disks": "nodes",
    "node_facts": "nodes",
    "reserve_bytes": "node_stores",
    "CoordinatorRebuilt": "coordinators",
    "backup_coordinator": "coordinators",
    "rebuild_coordinator": "coordinators",
    "recover_coordinator": "coordinators",
    "restore_coordinator": "coordinators",
    "init_coordinator": "coordinators",
    "copy_coordinator": "coordinators",
    "make_coordinator": "coordinators",
    "init_standby": "standby",
    "make_coordinator_server": "standby",
    "check_store": "stores",
    "copy_store": "stores",
    "make_store": "stores",
    "scale_store": "stores",
    "free_ports": "surroundings",
    "space": "surroundings",
    "time_syncs": "surroundings",
}

__all__ = [
    "THIS_MACHINE",
    "CoordinatorRebuilt",
    "ExchangeClient",
    "HomeMade",
    "Machine",
    "NetworkView",
    "NodeMade",
    "OpenVault",
    "Running",
    "backup_coordinator",
    "change_passphrase",
    "check_key",
    "check_store",
    "copy_coordinator",
    "copy_store",
    "fetch_url",
    "free_ports",
    "has_keys",
    "home_counts",
    "home_path",
    "init_coordinator",
    "init_home",
    "init_node",
    "init_standby",
    "is_sealed",
    "key_facts",
    "leave",
    "make_coordinator",
    "make_coordinator_server",
    "make_node",
    "make_store",
    "node_disks",
    "node_facts",
    "open_exchange",
    "open_network",
    "open_outbox",
    "open_vault",
    "outbox_counts",
    "outbox_metrics",
    "rebuild_coordinator",
    "recover_coordinator",
    "recovery_words",
    "reserve_bytes",
    "restore_coordinator",
    "scale_store",
    "space",
    "stay",
    "time_syncs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
