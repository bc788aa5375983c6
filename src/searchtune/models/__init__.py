"""Loading, adapting, running and saving neural models.

The only room that calls peft; it does not know training or tasks.
"""

import logging


def _no_call_for_kernels(record: logging.LogRecord) -> bool:
    """Drops bitsandbytes' advice to install `kernels`, which would have it fetch code from the hub at import."""
    return "pip install kernels" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_call_for_kernels)
