"""`s3://` for fsspec, through pyarrow. No torch here."""

from __future__ import annotations

import os
from typing import Any

from fsspec.implementations.arrow import ArrowFSWrapper


class S3Files(ArrowFSWrapper):  # type: ignore[misc]
    """Files in S3, or in what speaks like it.

    Credentials and region come from where all AWS tools take them: environment, `~/.aws`, the
    machine's role. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another server.
    """

    def __init__(self, **options: Any) -> None:
        from pyarrow.fs import S3FileSystem  # 0.1 s, which only those with S3 should pay

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        # Delayed: a small file is one put, not a multipart upload of three requests.
        store = S3FileSystem(endpoint_override=endpoint, allow_delayed_open=True)
        super().__init__(store, **options)
