// Keys and values as int8. Here only: how a head's numbers become those that pages hold.
//
// Of a key, few numbers may be far larger than the others (KIVI, arXiv:2402.02750), and the scale of all would leave
// little to those. Where a bias makes them so (Qwen2.5), keys are written without it, and attention adds it again
// (`Restored`). Where there is none, keys are spread, by an orthogonal transform that gives each number a part of all
// (QuaRot, arXiv:2404.00456), and queries too, which leaves their products as they were.
#pragma once
#include <cfloat>

#include "simd.h"

// Walsh and Hadamard's transform of as many numbers at once as a power of two divides `dim` into, in place.
static inline void spread(float* x, int dim, float by) {
    const int block = dim & -dim;
    for (int half = 1; half < block; half *= 2)
        for (int from = 0; from < dim; from += 2 * half)
            for (int i = from; i < from + half; i++) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (int i = 0; i < dim; i += LANES) store(x + i, load(x + i) * set1(by));
}

static inline void spread_key(float* x, int dim) { spread(x, dim, 1.0f); }
static inline void spread_query(float* x, int dim) { spread(x, dim, 1.0f / (dim & -dim)); }

// Writes numbers of -127 to 127; what is returned, times these, is `x` again, to half of it.
static inline float quantise_head(const float* x, int dim, int8_t* out) {
    vf most{};
    for (int d = 0; d < dim; d += LANES) most = max(max(load(x + d), -load(x + d)), most);
    const float scale = largest(most) / 127.0f;
    const vf by = set1(scale < FLT_MIN ? 0.0f : 1.0f / scale);
    for (int d = 0; d < dim; d += LANES) store_int8(out + d, round_to_int(load(x + d) * by));
    return scale;
}
