"""What the ops and the training steps cost, against the floor, plain PyTorch, torch.compile and the best known.

`plan` says what is measured; `process` measures it in fresh interpreters (`child`), by `ops`, `steps`, `memory` and
`scaling`; `against` does so for two builds in turn; `tables` and `plots` show the result, which `benchmarks/render.py`
puts into the documentation.
"""
