// Matrix products with packed weights: tokens by rows. Here only: packing as it is read, tiles, and the order of sums.
//
// A matrix is cut into blocks of 16 rows, one row a lane. An output is summed over the inputs in their order, group by
// group, whatever tile, batch or thread it is computed in: results do not depend on the batch.
//
// Kinds, by bits of a weight:
//   4, 5, 6, 8   codes: weight = scale * (code - offset), or scale * code + min, per row and group of inputs.
//                Activations are rounded to 8 bits per token and 32 inputs.
//   16, 32       bfloat16 and float32; activations stay float32.
// Codes of one block and 32 inputs, in operands of 4 inputs (byte 4 * lane + i is input 4 * operand + i of that row):
//   8 bits: 8 operands of 64 bytes. Less: 4 vectors of 64 bytes, operand 2j in the low and 2j + 1 in the high nibbles
//   of vector j; then for each further bit, 8 masks of 64 bits, one an operand.
#pragma once
#include "simd.h"

constexpr int GROUP = 32;  // inputs that share an activation's scale
constexpr int TILE = 8;    // tokens of a full tile

struct Matrix {  // as `workers.kernels.library.Matrix`
    int32_t bits, group, rows, inputs, offset, reserved;
    const void* codes;       // [blocks][inputs / 32][bytes], or [blocks][inputs][16] of bfloat16 or float32
    const uint16_t* scales;  // float16 [blocks][inputs / group][16]
    const uint16_t* mins;    // the same, or null
    const float* bias;       // [rows] or null
    int blocks() const { return (rows + LANES - 1) / LANES; }
    bool integer() const { return bits <= 8; }
};

constexpr int code_bytes(int bits) { return bits == 8 ? 512 : 256 + 64 * (bits - 4); }

// The activations of a step, tile by tile: a tile of n tokens that begins at token t lies at t * inputs, and within it
// four inputs (a float) of all its tokens lie together. Sums are over 16 inputs.
struct Activations {
    int8_t* codes;     // [inputs / 4][n][4]
    float* scales;     // [inputs / 32][n]
    int32_t* sums;     // [inputs / 16][n]
    float* floats;     // [inputs][n]
    int inputs, tokens;
};

// How many tokens the tile has that begins at token `at`: 8, then what is left as 4, 2 and 1.
INLINE int tile_size(int at, int tokens) {
    const int left = tokens - at;
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// Where a token's tile begins, and how many tokens it has.
INLINE void tile_of(int token, int tokens, int& begin, int& size) {
    begin = token / TILE * TILE;
    for (size = tile_size(begin, tokens); begin + size <= token; size = tile_size(begin, tokens)) begin += size;
}

// Rounds inputs [from, to) of one token (multiples of 32) to 8 bits, into its place.
static inline void quantise(const Activations& a, int token, const float* x, int from, int to) {
    int begin, n;
    tile_of(token, a.tokens, begin, n);
    const int lane = token - begin;
    int8_t* codes = a.codes + (size_t)begin * a.inputs;
    float* scales = a.scales + (size_t)begin * (a.inputs / GROUP);
    int32_t* sums = a.sums + (size_t)begin * (a.inputs / 16);
    for (int k = from; k < to; k += GROUP) {
        const vf low = load(x + k), high = load(x + k + 16);
        const float most = largest(max(max(low, -low), max(high, -high)));
        const float inverse = most > 0 ? 127.0f / most : 0.0f;
        scales[k / GROUP * n + lane] = most / 127.0f;
        const vi q[2] = {round_to_int(low * set1(inverse)), round_to_int(high * set1(inverse))};
        for (int half = 0; half < 2; half++) {
            typedef int8_t bytes16 __attribute__((vector_size(16), aligned(1)));
            const bytes16 packed = __builtin_convertvector(q[half], bytes16);
            int32_t words[4];
            std::memcpy(words, &packed, 16);
            for (int i = 0; i < 4; i++) std::memcpy(codes + ((size_t)(k / 4 + 4 * half + i) * n + lane) * 4, words + i, 4);
            int32_t total = 0;
            for (int i = 0; i < LANES; i++) total += q[half][i];
            sums[(k / 16 + half) * n + lane] = total;
        }
    }
}

static inline void place_floats(const Activations& a, int token, const float* x, int from, int to) {
    int begin, n;
    tile_of(token, a.tokens, begin, n);
    float* floats = a.floats + (size_t)begin * a.inputs + (token - begin);
    for (int k = from; k < to; k++) floats[(size_t)k * n] = x[k];
}

template <int BITS>
INLINE vb operand(const uint8_t* codes, int index) {
    if constexpr (BITS == 8) return load_bytes(codes + 64 * index);
    const vb pair = load_bytes(codes + 64 * (index / 2));
    vb value = (index & 1 ? pair >> 4 : pair) & 15;
    const uint64_t* masks = (const uint64_t*)(codes + 256);
    if constexpr (BITS >= 5) value = with_bit(value, masks[index], 16);
    if constexpr (BITS >= 6) value = with_bit(value, masks[8 + index], 32);
    return value;
}

// One block of rows by N tokens, integers. `CODED` is how the codes lie, which may be unpacked to 8 bits already.
template <int CODED, int BITS, int PER, int N>
INLINE void integer_tile(const Matrix& m, const uint8_t* codes, int block, const Activations& a, int begin, vf* out) {
    constexpr int CHAINS = N == 1 ? 4 : N == 2 ? 2 : 1;  // integer sums may be taken in any order
    constexpr int PARTS = GROUP / PER;                   // scales in 32 inputs
    const int groups = m.inputs / GROUP;
    const uint16_t* scales = m.scales + (size_t)block * groups * PARTS * LANES;
    const uint16_t* mins = m.mins ? m.mins + (size_t)block * groups * PARTS * LANES : nullptr;
    const int8_t* x = a.codes + (size_t)begin * a.inputs;
    const float* x_scales = a.scales + (size_t)begin * groups;
    const int32_t* x_sums = a.sums + (size_t)begin * groups * 2;
    vf total[N];
    for (int t = 0; t < N; t++) total[t] = vf{};
    for (int g = 0; g < groups; g++, codes += code_bytes(CODED)) {
        for (int part = 0; part < PARTS; part++) {
            const int at = g * PARTS + part;
            const vf scale = half_to_float(scales + (size_t)at * LANES);
            vi sums[N][CHAINS];
            float input_sum[N];
            for (int t = 0; t < N; t++) {
                int32_t s = x_sums[(2 * g + part) * N + t];
                if constexpr (PARTS == 1) s += x_sums[(2 * g + 1) * N + t];
                input_sum[t] = (float)s;
                sums[t][0] = vi{} - m.offset * s;
                for (int c = 1; c < CHAINS; c++) sums[t][c] = vi{};
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8 / PARTS; i++) {
                const int index = part * (8 / PARTS) + i;
                const vb w = operand<CODED>(codes, index);
#pragma GCC unroll 8
                for (int t = 0; t < N; t++) {
                    int32_t word;
                    std::memcpy(&word, x + ((size_t)(8 * g + index) * N + t) * 4, 4);
                    sums[t][i % CHAINS] = dot4<BITS>(sums[t][i % CHAINS], w, word);
                }
            }
#pragma GCC unroll 8
            for (int t = 0; t < N; t++) {
                for (int c = 1; c < CHAINS; c++) sums[t][0] += sums[t][c];
                total[t] = fma(to_float(sums[t][0]), scale * set1(x_scales[g * N + t]), total[t]);
            }
            if (mins) {
                const vf least = half_to_float(mins + (size_t)at * LANES);
                for (int t = 0; t < N; t++)
                    total[t] = fma(least, set1(x_scales[g * N + t] * input_sum[t]), total[t]);
            }
        }
    }
    for (int t = 0; t < N; t++) out[t] = total[t];
}

template <int BITS, int N>
INLINE void float_tile(const Matrix& m, int block, const Activations& a, int begin, vf* out) {
    const float* x = a.floats + (size_t)begin * a.inputs;
    const auto weights = [&](int k) {
        const size_t at = ((size_t)block * m.inputs + k) * LANES;
        if constexpr (BITS == 16) return bf16_to_float((const uint16_t*)m.codes + at);
        return load((const float*)m.codes + at);
    };
    vf even[N], odd[N];  // two chains: fused multiply-adds take their time
    for (int t = 0; t < N; t++) even[t] = odd[t] = vf{};
    for (int k = 0; k < m.inputs; k += 2) {
        const vf w = weights(k), v = weights(k + 1);
#pragma GCC unroll 8
        for (int t = 0; t < N; t++) {
            even[t] = fma(w, set1(x[(size_t)k * N + t]), even[t]);
            odd[t] = fma(v, set1(x[(size_t)(k + 1) * N + t]), odd[t]);
        }
    }
    for (int t = 0; t < N; t++) out[t] = even[t] + odd[t];
}

// Codes of a block, unpacked to 8 bits: for many tokens it pays to do it once.
template <int BITS>
static void unpack(const uint8_t* codes, int groups, uint8_t* out) {
    for (int g = 0; g < groups; g++, codes += code_bytes(BITS))
        for (int i = 0; i < 8; i++, out += 64) *(vb_u*)out = operand<BITS>(codes, i);
}

// All tokens by one block: `finish(token, values)` gets each token's 16 outputs.
template <int CODED, int BITS, int PER, class F>
static void integer_block(const Matrix& m, const uint8_t* codes, int block, const Activations& a, const F& finish) {
    vf out[TILE];
    for (int begin = 0, n; begin < a.tokens; begin += n) {
        n = tile_size(begin, a.tokens);
        if (n == 8) integer_tile<CODED, BITS, PER, 8>(m, codes, block, a, begin, out);
        else if (n == 4) integer_tile<CODED, BITS, PER, 4>(m, codes, block, a, begin, out);
        else if (n == 2) integer_tile<CODED, BITS, PER, 2>(m, codes, block, a, begin, out);
        else integer_tile<CODED, BITS, PER, 1>(m, codes, block, a, begin, out);
        for (int t = 0; t < n; t++) finish(begin + t, out[t]);
    }
}

template <int BITS, int PER, class F>
static void coded_block(const Matrix& m, int block, const Activations& a, uint8_t* scratch, const F& finish) {
    const int groups = m.inputs / GROUP;
    const uint8_t* codes = (const uint8_t*)m.codes + (size_t)block * groups * code_bytes(BITS);
    if (BITS < 8 && a.tokens > TILE) {
        unpack<BITS>(codes, groups, scratch);
        integer_block<8, BITS, PER>(m, scratch, block, a, finish);
    } else {
        integer_block<BITS, BITS, PER>(m, codes, block, a, finish);
    }
}

template <int BITS, class F>
static void float_block(const Matrix& m, int block, const Activations& a, const F& finish) {
    vf out[TILE];
    for (int begin = 0, n; begin < a.tokens; begin += n) {
        n = tile_size(begin, a.tokens);
        if (n == 8) float_tile<BITS, 8>(m, block, a, begin, out);
        else if (n == 4) float_tile<BITS, 4>(m, block, a, begin, out);
        else if (n == 2) float_tile<BITS, 2>(m, block, a, begin, out);
        else float_tile<BITS, 1>(m, block, a, begin, out);
        for (int t = 0; t < n; t++) finish(begin + t, out[t]);
    }
}

// `scratch`: inputs * 16 bytes of the calling thread.
template <class F>
static void block_product(const Matrix& m, int block, const Activations& a, uint8_t* scratch, const F& finish) {
    switch (m.bits) {
        case 4: return coded_block<4, 32>(m, block, a, scratch, finish);
        case 5: return coded_block<5, 32>(m, block, a, scratch, finish);
        case 6: return coded_block<6, 16>(m, block, a, scratch, finish);
        case 8: return coded_block<8, 32>(m, block, a, scratch, finish);
        case 16: return float_block<16>(m, block, a, finish);
        default: return float_block<32>(m, block, a, finish);
    }
}

// Row `row` of the matrix as floats: how an embedding is looked up.
static inline void matrix_row(const Matrix& m, int row, float* out) {
    const int block = row / LANES, lane = row % LANES, groups = m.inputs / GROUP;
    if (!m.integer()) {
        for (int k = 0; k < m.inputs; k++) {
            const size_t at = ((size_t)block * m.inputs + k) * LANES + lane;
            if (m.bits == 32) out[k] = ((const float*)m.codes)[at];
            else {
                const uint32_t wide = (uint32_t)((const uint16_t*)m.codes)[at] << 16;
                std::memcpy(out + k, &wide, 4);
            }
        }
        return;
    }
    const uint8_t* codes = (const uint8_t*)m.codes + (size_t)block * groups * code_bytes(m.bits);
    float scale = 0, least = 0;
    for (int k = 0; k < m.inputs; k++) {
        if (k % m.group == 0) {
            const size_t at = ((size_t)block * (m.inputs / m.group) + k / m.group) * LANES;
            scale = half_to_float(m.scales + at)[lane];
            least = m.mins ? half_to_float(m.mins + at)[lane] : -scale * m.offset;
        }
        const uint8_t* group = codes + (size_t)(k / GROUP) * code_bytes(m.bits);
        const int index = k % GROUP / 4, byte = 4 * lane + k % 4;
        int code;
        if (m.bits == 8) code = group[64 * index + byte];
        else {
            code = (group[64 * (index / 2) + byte] >> (4 * (index & 1))) & 15;
            for (int bit = 4; bit < m.bits; bit++) {
                uint64_t mask;
                std::memcpy(&mask, group + 256 + 64 * (bit - 4) + 8 * index, 8);
                code |= (int)(mask >> byte & 1) << bit;
            }
        }
        out[k] = scale * code + least;
    }
}
