"""How a service fared, as one picture: read here (`reading`), drawn there (`drawing`), the same wherever it is shown.

It lies to the right of everything that it shows, so it lives in billing: availability per path, storms, weights that were
wanted and observed, traffic by path, and what people did.
"""
