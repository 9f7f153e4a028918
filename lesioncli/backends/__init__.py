"""Engines on CPUs and GPUs."""

import sys

# On import, openvino sends telemetry unless its reporter cannot be imported; then it uses a stub. lesioncli uses the
# network only if it is asked to.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes the import fail
