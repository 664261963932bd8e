"""The VAE kit: scales, networks, likelihoods, objectives, the model, its metrics and pictures.

Knows no trial, no study file, no pack. Everything here works on one model (B, ...) and, because it only
ever names trailing axes, on a stack of models (M, B, ...) as well.
"""
