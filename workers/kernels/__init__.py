"""The CPU kernels: a dense decoder's step in one call of C++, on packed weights, with the same bits for any batch.

| file        | what                                                                        |
|-------------|-----------------------------------------------------------------------------|
| `native/`   | the C++: vectors, threads, products, attention, the step                    |
| `build`     | one shared library per kind of processor, compiled once and kept            |
| `library`   | its functions and structs, through ctypes                                   |
| `pack`      | codes and floats in the layouts of `native/linear.h`                        |

There is no binding to torch's C++ interface: one library serves every torch, and compiles in seconds.
"""
