"""Kernels of finite networks: the empirical NTK and NNGP of any pure `apply`, their spectrum, and linearisation."""
