"""Rules of custom ops from their patterns, such as `x[n,c,*s] scale[c] -> y[n,c,*s]`."""
