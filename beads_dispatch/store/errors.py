"""What can go wrong in the store, as its callers see it."""


class StoreError(Exception):
    """Dolt refused a statement, or could not be reached. Trying again later may help.

    The text holds the server's error number and message, never a statement's values.
    """

    def __init__(self, message: str, code: int = 0, *, refused: bool = False, timed_out: bool = False) -> None:
        super().__init__(message)
        self.code = code  # MySQL's error number; 0 without one
        self.refused = refused  # the server answered; otherwise it could not be reached
        self.timed_out = timed_out  # it was reached, and a statement took too long


class NewerLayout(StoreError):
    """A newer version has changed our own tables so that this one cannot use them. The text says what to run."""

    def __init__(self, message: str) -> None:
        super().__init__(message, refused=True)


class ClaimLost(Exception):
    """Somebody else changed the bead first. Concurrency at work, not an error."""


class RowChanged(Exception):
    """The row is no longer in the state that was read: nothing is written."""
