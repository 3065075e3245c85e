// Additions of low rank to products (LoRA, arXiv:2106.09685): out += B (scale * (A x)), for some of a step's tokens. Here
// only: how the matrices lie, and the order of sums.
//
// A token's numbers are summed over inputs and ranks in their order, by one task, whatever tokens are beside it: as in
// `linear.h`, results do not depend on the batch.
#pragma once
#include "packed.h"

constexpr int MAX_RANK = 256;
constexpr int LOW_TILE = WIDE ? 8 : 2;  // tokens that share their way through a matrix: two sums of each stay in registers

struct Low {         // as `workers.kernels.library.Low`
    const void* a;   // [rank / 16][inputs][16]
    const void* b;   // [rows / 16][rank][16]
    int32_t rank;    // filled up to a multiple of 16 with zeros; 0: nothing is added here
    int32_t rows, bits;  // `bits` of a number: 16 (bfloat16) or 32
    float scale;
};

struct Adapted {  // as `workers.kernels.library.Adapted`
    const Low* low;         // [layers][7], in the order of Layer's matrices, and the head's
    const int32_t* tokens;  // ascending
    int64_t count;
};

INLINE vf low_numbers(const float* at) { return load(at); }
INLINE vf low_numbers(const uint16_t* at) { return bf16_to_float(at); }

// N tokens. `out(t)` is where the first output of the t-th is; `add`: to what is there.
template <class Number, int N, class Out>
INLINE void low_tile(const Low& m, const Activations& a, const int32_t* tokens, const Out& out, bool add) {
    alignas(64) float middle[N][MAX_RANK];
    const float* x[N];
    size_t step[N];  // to a token's next 16 inputs
    for (int t = 0; t < N; t++) {
        const Place at(a, tokens[t]);
        x[t] = a.floats + ((size_t)at.begin * a.cells() * (CELL / LANES) + at.lane) * LANES;
        step[t] = (size_t)at.tokens * LANES;
    }
    const Number* numbers = (const Number*)m.a;
    for (int r = 0; r < m.rank; r += LANES) {
        vf even[N], odd[N];  // two chains: fused multiply-adds take their time
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) even[t] = odd[t] = vf{};
        for (int k = 0; k < a.inputs; k += 2, numbers += 2 * LANES) {
            const vf w = low_numbers(numbers), v = low_numbers(numbers + LANES);
#pragma GCC unroll 8
            for (int t = 0; t < N; t++) {
                const float* at = x[t] + (size_t)(k / LANES) * step[t] + k % LANES;
                even[t] = fma(w, set1(at[0]), even[t]);
                odd[t] = fma(v, set1(at[1]), odd[t]);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) store(middle[t] + r, (even[t] + odd[t]) * set1(m.scale));
    }
    numbers = (const Number*)m.b;
    for (int row = 0; row < m.rows; row += LANES) {
        vf sums[N];
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) sums[t] = vf{};
        for (int r = 0; r < m.rank; r++, numbers += LANES) {
            const vf w = low_numbers(numbers);
#pragma GCC unroll 8
            for (int t = 0; t < N; t++) sums[t] = fma(w, set1(middle[t][r]), sums[t]);
        }
        for (int t = 0; t < N; t++) {
            float* to = out(t) + row;
            if (row + LANES <= m.rows) {
                store(to, add ? load(to) + sums[t] : sums[t]);
                continue;
            }
            for (int i = 0; row + i < m.rows; i++) to[i] = add ? to[i] + sums[t][i] : sums[t][i];
        }
    }
}

template <class Out>
INLINE void low_product(
    const Low& m, const Activations& a, const int32_t* tokens, int count, const Out& out, bool add) {
    with_constant<LOW_TILE>(count, [&](auto n) {
        if (m.bits == 16) low_tile<uint16_t, n>(m, a, tokens, out, add);
        else low_tile<float, n>(m, a, tokens, out, add);
    });
}
