"""`jobctl trace`: a batch's story out of the files that the service leaves. Works without the service."""
