"""The rule table of the axis analysis; see `registry`."""
