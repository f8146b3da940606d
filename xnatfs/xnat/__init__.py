"""Everything that knows XNAT's REST interface."""
