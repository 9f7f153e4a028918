"""The program: `lesioncli`, or `python -m lesioncli`."""

import sys

from lesioncli.process import skip_openvino_converter, start_no_blas_threads
from lesioncli.signals import HANDLER


def main() -> None:
    """Run the program. Its modules are imported here, so that Ctrl-C while they load is no traceback."""
    HANDLER.install()
    start_no_blas_threads()
    skip_openvino_converter()
    try:
        from lesioncli.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(HANDLER.exit_code)


if __name__ == "__main__":
    main()
