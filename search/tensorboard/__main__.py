"""TensorBoard's own server, for logs in any storage that a study can be in.

    python -m search.tensorboard --logdir s3://bucket/studies/pets/tensorboard

By itself, TensorBoard needs further packages to read from S3.
"""

from tensorboard.main import run_main

import trainables.storage  # noqa: F401 - tells fsspec how to reach s3://

if __name__ == "__main__":
    run_main()
