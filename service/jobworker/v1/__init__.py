"""The published interface: protos, and the code that `build_protos.py` generates beside them."""
