"""What all tests start from."""

import signal


def pytest_configure() -> None:
    """Ctrl-C works in the processes that tests start.

    A script that starts the tests in the background has them ignore it, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
