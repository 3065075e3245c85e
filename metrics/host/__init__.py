"""The machine under the processes: read by the metrics process, from the kernel's files and from NVML.

| module      | holds                                                          |
|-------------|----------------------------------------------------------------|
| `files`     | what the files under /proc and /sys say, as numbers            |
| `places`    | where a process runs and what memory is its own                |
| `watch`     | shares of CPU time between two looks; everything for one reply |
| `nvml`      | GPUs, where `nvidia-ml-py` and a driver are there              |

Nothing here is read more often than once a second, and most of it only while somebody looks.
"""
