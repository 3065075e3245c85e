"""Pages in a GPU's memory, written through to the arena: HBM is a cache of pages, the arena is where they live.

| module     | what                                                                    |
|------------|-------------------------------------------------------------------------|
| `frames`   | which page is in which frame of device memory; pure                      |
| `pages`    | the pages as slots and executor use them                                 |
| `copier`   | copies between frames and arena beside the steps; in ordinary memory too |
| `bounce`   | pinned pages between the two where the arena is not pinned; pure         |
| `register` | the arena pinned for the GPU, slice by slice                             |
| `balance`  | what device memory is for, and how many frames fit; pure                 |
"""
