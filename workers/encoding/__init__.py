"""Encoders: texts in, vectors or scores out. No KV, no pages, no drawing.

| module         | noun                                                                     |
|----------------|--------------------------------------------------------------------------|
| `architecture` | what an encoder is, read from its files                                  |
| `names`        | what its tensors are called in the files of each family                  |
| `weights`      | its tensors, ready to compute with, as the weight store keeps them       |
| `packing`      | which rows' attention is computed together                               |
| `attention`    | attention of rows of different lengths, over a flat list of tokens       |
| `encoder`      | the forward pass                                                         |
| `pooling`      | from hidden states to one vector a row                                   |
| `execute`      | one step: plan in, vectors out                                           |
| `loading`      | from a model's configuration to an encoder in memory                     |
"""
