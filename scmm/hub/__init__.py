"""Checkpoints of other projects into SCMM."""
