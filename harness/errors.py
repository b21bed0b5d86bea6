"""The one tree of errors that the harness raises; each class knows the exit code that `cli` ends with.

HarnessError
├── InputError      2  the user's file or argument is wrong
├── StackError      3  a server, a download or the machine failed
└── RunInvalid      4  the run was made, but its numbers cannot be trusted
"""


class HarnessError(Exception):
    """Text of every harness error: place, value, remedy."""

    exit_code = 3


class InputError(HarnessError):
    exit_code = 2


class StackError(HarnessError):
    exit_code = 3


class RunInvalid(HarnessError):
    exit_code = 4
