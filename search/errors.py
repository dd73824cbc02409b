"""Errors of a sweep, and the exit code that the command gives for each.

SearchError
├── SpecError     2  the sweep file, or a value given on the command line, is not usable
├── StudyError    2  a study folder is missing, foreign, or does not fit the sweep file
├── StorageError  3  the storage refused (permission, disk full, unreachable)
├── LeaseError    3  another driver writes the study
└── SweepError    1  the sweep could not go on, or ended without a feasible model
"""


class SearchError(Exception):
    """A sweep cannot go on; the message says what was given, what is allowed, and where."""

    exit_code = 1


class SpecError(SearchError):
    """The sweep file, or a value given on the command line, is not usable."""

    exit_code = 2


class StudyError(SearchError):
    """A study folder is missing, foreign, or does not fit the sweep file."""

    exit_code = 2


class StorageError(SearchError):
    """The storage refused."""

    exit_code = 3


class LeaseError(SearchError):
    """Another driver writes the study."""

    exit_code = 3


class SweepError(SearchError):
    """The sweep could not go on, or ended without a feasible model."""

    exit_code = 1
