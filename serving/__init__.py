"""What stands around the SavedModel: the local gRPC server and the client."""

import sys

import mmtfrs  # noqa: F401 - chooses Keras 2 before anything here imports TensorFlow
from mmtfrs.cli.import_faults import tell_import_faults
from mmtfrs.cli.stops import listen

if sys.argv[0] == "-m":  # `python -m serving.client`: it can be stopped while all else is imported
    listen()
    tell_import_faults()
