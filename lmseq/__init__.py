"""lmseq: sequence models as step functions; everything else is a scan over them."""
