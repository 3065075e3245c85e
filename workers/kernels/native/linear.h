// Matrix products with packed weights: tokens by rows. Here only: packing as it is read, tiles, and the order of sums.
//
// A matrix is cut into blocks of 32 rows, two vectors of 16 rows, one row a lane. An output is summed over the inputs in
// their order, group by group, whatever tile, batch or thread it is computed in: results do not depend on the batch.
//
// Kinds, by bits of a weight:
//   4, 5, 6, 8   codes: weight = scale * (code - offset), or scale * code + min, per row and group of inputs.
//                Activations are rounded to 8 bits per token and 32 inputs.
//   16, 32       bfloat16 and float32; activations stay float32.
// A block lies in one piece, so that a thread reads one stream of memory: what decode is bound by. Codes lie in a record
// for each 32 inputs, in operands of 4 inputs (byte 4 * lane + i is input 4 * operand + i of that row):
//   codes   8 bits: 8 operands, each of both vectors. Less: 4 times 64 bytes of both vectors, operand 2j in the low and
//           2j + 1 in the high nibbles of the j-th; then for each further bit, of both vectors, 8 masks of 64 bits, one
//           an operand.
//   scales  for each group, of both vectors: 16 of float16.
//   mins    the same, where there are some.
#pragma once
#include "simd.h"

constexpr int GROUP = 32;           // inputs that share an activation's scale
constexpr int HALVES = 2;           // vectors of a block: an input that is broadcast serves both
constexpr int BLOCK = HALVES * LANES;
constexpr int TILE = WIDE ? 8 : 2;  // tokens of a tile at most: its sums fill half of the registers
constexpr int MANY = WIDE ? 6 : 2;  // of a tile of many: nothing in it has to make way

struct Matrix {  // as `workers.kernels.library.Matrix`
    int32_t bits, group, rows, inputs, offset, mins;  // `mins`: whether there are some
    const uint8_t* data;  // [blocks][inputs / 32] records, or [blocks][inputs][32] of bfloat16 or float32
    const float* bias;    // [rows] or null
    int blocks() const { return (rows + BLOCK - 1) / BLOCK; }
    bool integer() const { return bits <= 8; }
};

constexpr int code_bytes(int bits) { return HALVES * (bits == 8 ? 512 : 256 + 64 * (bits - 4)); }
constexpr int scale_bytes(int group) { return GROUP / group * BLOCK * 2; }
constexpr int record_bytes(int bits, int group, bool mins) {
    return code_bytes(bits) + scale_bytes(group) + (mins ? BLOCK * 2 : 0);
}

// 64 inputs of a token: a line of the cache, so that threads do not write into each other's.
constexpr int CELL = 64;
struct Notes {  // of a cell: of each 32 inputs the scale of their codes, and scale * sum of codes; of each 16 the sum
    float scales[2], shares[2];
    int32_t sums[4];
};

// The activations of a step, tile by tile: a tile of n tokens that begins at token t lies at t * cells() cells. Inputs
// are a multiple of 32.
struct Activations {
    int8_t* codes;  // [cells][n][64]
    Notes* notes;   // [cells][n]
    float* floats;  // [cells * 4][n][16]
    int inputs, tokens;
    int cells() const { return (inputs + CELL - 1) / CELL; }
};

// Tokens are cut into as few tiles as can be, which are as even as can be: the larger ones come first.
struct Tiles {
    int count, size, larger;  // `larger` tiles have a token more than `size`
    explicit Tiles(int tokens)
        : count(tokens <= TILE ? 1 : (tokens + MANY - 1) / MANY), size(tokens / count), larger(tokens % count) {}
    int begin(int tile) const { return tile * size + (tile < larger ? tile : larger); }
    int tokens(int tile) const { return size + (tile < larger); }
    int of(int token) const {
        const int inside = larger * (size + 1);
        return token < inside ? token / (size + 1) : larger + (token - inside) / size;
    }
};

// Where a token lies: in which tile, of how many tokens, and as which of them.
struct Place {
    int begin, tokens, lane;
    int token() const { return begin + lane; }
    Place(int begin, int tokens, int lane) : begin(begin), tokens(tokens), lane(lane) {}
    Place(const Activations& a, int token) {
        const Tiles tiles(a.tokens);
        const int tile = tiles.of(token);
        begin = tiles.begin(tile), tokens = tiles.tokens(tile), lane = token - begin;
    }
};

// Rounds inputs [k, k + 32) of the token at `place` to 8 bits, into their cell; k is a multiple of 32.
INLINE void quantise(const Activations& a, const Place& place, int k, vf low, vf high) {
    const size_t cell = (size_t)place.begin * a.cells() + (size_t)(k / CELL) * place.tokens + place.lane;
    const int half = k / GROUP % 2;
    const float most = largest(max(max(low, -low), max(high, -high)));
    const float inverse = most > 0 ? 127.0f / most : 0.0f, scale = most / 127.0f;
    const vi first = round_to_int(low * set1(inverse)), second = round_to_int(high * set1(inverse));
    store_int8(a.codes + cell * CELL + half * GROUP, first);
    store_int8(a.codes + cell * CELL + half * GROUP + LANES, second);
    Notes& notes = a.notes[cell];
    const int32_t sums[2] = {total(first), total(second)};
    notes.sums[2 * half] = sums[0];
    notes.sums[2 * half + 1] = sums[1];
    notes.scales[half] = scale;
    notes.shares[half] = scale * (float)(sums[0] + sums[1]);
}

// Inputs [k, k + 32) of the token at `place` as floats.
INLINE void place_floats(const Activations& a, const Place& place, int k, vf low, vf high) {
    const size_t vector = (size_t)place.begin * a.cells() * (CELL / LANES) + (size_t)(k / LANES) * place.tokens + place.lane;
    float* at = a.floats + vector * LANES;
    store(at, low);
    store(at + (size_t)place.tokens * LANES, high);
}

template <int BITS>
INLINE vb operand(const uint8_t* codes, int index, int half) {
    if constexpr (BITS == 8) return load_bytes(codes + 64 * (HALVES * index + half));
    const vb pair = load_bytes(codes + 64 * (HALVES * (index / 2) + half));
    vb value = (index & 1 ? pair >> 4 : pair) & 15;
    const uint64_t* masks = (const uint64_t*)(codes + HALVES * 256) + 8 * half;
    if constexpr (BITS >= 5) value = with_bit(value, masks[index], 16);
    if constexpr (BITS >= 6) value = with_bit(value, masks[HALVES * 8 + index], 32);
    return value;
}

// A block of rows by N tokens, integers. `CODED` is how the codes lie: as in the records, or unpacked to 8 bits.
template <int CODED, int BITS, int PER, bool MINS, int N>
INLINE void integer_tile(
    const Matrix& m, const uint8_t* record, const uint8_t* codes, const Activations& a, int begin, vf (*out)[TILE]) {
    constexpr int CHAINS = N == 1 ? 2 : 1;  // integer sums may be taken in any order
    constexpr int PARTS = GROUP / PER;      // scales in 32 inputs
    constexpr int OPERANDS = 8 / PARTS;
    constexpr int RECORD = record_bytes(BITS, PER, MINS), STEP = CODED == BITS ? RECORD : code_bytes(8);
    // Where little is computed between two lines, the processor's own prefetchers do it better.
    constexpr bool FETCH = CODED == BITS && (BITS >= 6 || (BITS == 5 && N > 1));
    constexpr int AHEAD = 4096;
    const int groups = m.inputs / GROUP;
    const int8_t* x = a.codes + (size_t)begin * a.cells() * CELL;
    const Notes* notes = a.notes + (size_t)begin * a.cells();
    vf totals[HALVES][N];
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) totals[0][t] = totals[1][t] = vf{};
    for (int g = 0; g < groups; g++, record += RECORD, codes += STEP) {
        if (FETCH && begin == 0)
            for (int i = 0; i < RECORD; i += 64) __builtin_prefetch(record + AHEAD + i, 0, 2);
        const uint16_t* scales = (const uint16_t*)(record + code_bytes(BITS));
        const int which = g % 2;  // of the cell
        vf weighted[HALVES][N];
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; part++) {
            vi sums[HALVES][N][CHAINS];
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                sums[0][t][0] = sums[1][t][0] = vi{};
                if constexpr (!MINS) {  // what the codes are larger by, of all inputs
                    int32_t sum = notes[t].sums[2 * which + part];
                    if constexpr (PARTS == 1) sum += notes[t].sums[2 * which + 1];
                    sums[0][t][0] = sums[1][t][0] = set1_int(-m.offset * sum);
                }
                for (int c = 1; c < CHAINS; c++) sums[0][t][c] = sums[1][t][c] = vi{};
            }
#pragma GCC unroll 16
            for (int i = 0; i < OPERANDS; i++) {
                const int index = part * OPERANDS + i;
                const vb w = operand<CODED>(codes, index, 0), v = operand<CODED>(codes, index, 1);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    const vb word = broadcast4(x + t * CELL + which * GROUP + index * 4);
                    sums[0][t][i % CHAINS] = dot4<BITS>(sums[0][t][i % CHAINS], w, word);
                    sums[1][t][i % CHAINS] = dot4<BITS>(sums[1][t][i % CHAINS], v, word);
                }
            }
#pragma GCC unroll 2
            for (int half = 0; half < HALVES; half++) {
                const vf scale = half_to_float(scales + (part * HALVES + half) * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    for (int c = 1; c < CHAINS; c++) sums[half][t][0] += sums[half][t][c];
                    const vf found = to_float(sums[half][t][0]);
                    weighted[half][t] = part ? fma(found, scale, weighted[half][t]) : found * scale;
                }
            }
        }
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf scale = set1(notes[t].scales[which]);
            totals[0][t] = fma(weighted[0][t], scale, totals[0][t]);
            totals[1][t] = fma(weighted[1][t], scale, totals[1][t]);
        }
        if constexpr (MINS) {
            const uint16_t* mins = scales + PARTS * BLOCK;
            const vf low = half_to_float(mins), high = half_to_float(mins + LANES);
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                const vf share = set1(notes[t].shares[which]);
                totals[0][t] = fma(low, share, totals[0][t]);
                totals[1][t] = fma(high, share, totals[1][t]);
            }
        }
        if (which) x += N * CELL, notes += N;
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = totals[0][t], out[1][t] = totals[1][t];
}

template <int BITS, int N>
INLINE void float_tile(const Matrix& m, int block, const Activations& a, int begin, vf (*out)[TILE]) {
    const float* x = a.floats + (size_t)begin * a.cells() * CELL;
    const uint8_t* data = m.data + (size_t)block * m.inputs * BLOCK * (BITS / 8);
    const auto weights = [&](int k, int half) {
        const size_t at = (size_t)k * BLOCK + half * LANES;
        if constexpr (BITS == 16) return bf16_to_float((const uint16_t*)data + at);
        return load((const float*)data + at);
    };
    vf even[HALVES][N], odd[HALVES][N];  // two chains: fused multiply-adds take their time
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) even[0][t] = odd[0][t] = even[1][t] = odd[1][t] = vf{};
    for (int k = 0; k < m.inputs; k += 2) {
        const float* at = x + (size_t)(k / LANES) * N * LANES + k % LANES;
        const vf w[2] = {weights(k, 0), weights(k, 1)}, v[2] = {weights(k + 1, 0), weights(k + 1, 1)};
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf first = set1(at[t * LANES]), second = set1(at[t * LANES + 1]);
            even[0][t] = fma(w[0], first, even[0][t]);
            even[1][t] = fma(w[1], first, even[1][t]);
            odd[0][t] = fma(v[0], second, odd[0][t]);
            odd[1][t] = fma(v[1], second, odd[1][t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = even[0][t] + odd[0][t], out[1][t] = even[1][t] + odd[1][t];
}

// What is done with a token's outputs of a block: the products are compiled once, whoever wants them.
class Finish {
  public:
    template <class F>
    Finish(const F& f)
        : context_(&f), call_([](const void* f, const Place& at, vf low, vf high) { (*(const F*)f)(at, low, high); }) {}
    void operator()(const Place& at, vf low, vf high) const { call_(context_, at, low, high); }

  private:
    const void* context_;
    void (*call_)(const void*, const Place&, vf, vf);
};

// All tokens by a block, tile by tile; `compute` is given how many tokens the tile has as a constant.
template <class C>
INLINE void each_tile(const Activations& a, const C& compute, const Finish& finish) {
    const Tiles tiles(a.tokens);
    vf out[HALVES][TILE];
    for (int tile = 0; tile < tiles.count; tile++) {
        const int begin = tiles.begin(tile), n = tiles.tokens(tile);
        with_constant<TILE>(n, [&](auto N) { compute(N, begin, out); });
        for (int t = 0; t < n; t++) finish(Place(begin, n, t), out[0][t], out[1][t]);
    }
}

// Codes of a block, unpacked to 8 bits.
template <int BITS>
static void unpack(const uint8_t* record, int bytes, int groups, uint8_t* out) {
    for (int g = 0; g < groups; g++, record += bytes)
        for (int i = 0; i < 8; i++)
            for (int half = 0; half < HALVES; half++, out += 64) store_bytes(out, operand<BITS>(record, i, half));
}

template <int BITS, int PER, bool MINS>
static void integer_block(
    const Matrix& m, int block, const Activations& a, uint8_t* scratch, const Finish& finish) {
    constexpr int RECORD = record_bytes(BITS, PER, MINS);
    const int groups = m.inputs / GROUP;
    const uint8_t* record = m.data + (size_t)block * groups * RECORD;
    // For many tokens it pays to unpack once, but for 4 bits, which are unpacked in passing.
    if (BITS == 4 || BITS == 8 || a.tokens <= TILE)
        return each_tile(
            a,
            [&](auto N, int begin, vf (*out)[TILE]) {
                integer_tile<BITS, BITS, PER, MINS, N>(m, record, record, a, begin, out);
            },
            finish);
    unpack<BITS>(record, RECORD, groups, scratch);
    each_tile(
        a,
        [&](auto N, int begin, vf (*out)[TILE]) {
            integer_tile<8, BITS, PER, MINS, N>(m, record, scratch, a, begin, out);
        },
        finish);
}

template <int BITS>
static void float_block(const Matrix& m, int block, const Activations& a, const Finish& finish) {
    each_tile(
        a, [&](auto N, int begin, vf (*out)[TILE]) { float_tile<BITS, N>(m, block, a, begin, out); }, finish);
}

// All tokens by a block: `finish(place, low, high)` gets a token's outputs of its 32 rows, some of which may be behind the
// last one. `scratch`: inputs * 32 bytes of the calling thread.
static void block_product(
    const Matrix& m, int block, const Activations& a, uint8_t* scratch, const Finish& finish) {
    switch (m.bits) {
        case 4:
            return m.mins ? integer_block<4, 32, true>(m, block, a, scratch, finish)
                          : integer_block<4, 32, false>(m, block, a, scratch, finish);
        case 5:
            return m.mins ? integer_block<5, 32, true>(m, block, a, scratch, finish)
                          : integer_block<5, 32, false>(m, block, a, scratch, finish);
        case 6: return integer_block<6, 16, false>(m, block, a, scratch, finish);
        case 8: return integer_block<8, 32, false>(m, block, a, scratch, finish);
        case 16: return float_block<16>(m, block, a, finish);
        default: return float_block<32>(m, block, a, finish);
    }
}

// Row `row` of the matrix as floats: how an embedding is looked up.
static inline void matrix_row(const Matrix& m, int row, float* out) {
    const int block = row / BLOCK, inside = row % BLOCK, half = inside / LANES, lane = inside % LANES;
    if (!m.integer()) {
        const uint8_t* data = m.data + (size_t)block * m.inputs * BLOCK * (m.bits / 8);
        for (int k = 0; k < m.inputs; k++) {
            const size_t at = (size_t)k * BLOCK + inside;
            if (m.bits == 32) out[k] = ((const float*)data)[at];
            else {
                const uint32_t wide = (uint32_t)((const uint16_t*)data)[at] << 16;
                std::memcpy(out + k, &wide, 4);
            }
        }
        return;
    }
    const int bytes = record_bytes(m.bits, m.group, m.mins);
    const uint8_t* record = m.data + (size_t)block * (m.inputs / GROUP) * bytes;
    for (int begin = 0; begin < m.inputs; begin += GROUP, record += bytes)
        for (int k = 0; k < GROUP; k++) {
            const uint16_t* scales = (const uint16_t*)(record + code_bytes(m.bits)) + half * LANES;
            const float scale = half_to_float(scales + k / m.group * BLOCK)[lane];
            const float least = m.mins ? half_to_float(scales + BLOCK)[lane] : -scale * m.offset;
            const int index = k / 4, byte = 4 * lane + k % 4;
            int code;
            if (m.bits == 8) code = record[64 * (HALVES * index + half) + byte];
            else {
                code = (record[64 * (HALVES * (index / 2) + half) + byte] >> (4 * (index & 1))) & 15;
                for (int bit = 4; bit < m.bits; bit++) {
                    uint64_t mask;
                    std::memcpy(&mask, record + HALVES * (256 + 64 * (bit - 4)) + 64 * half + 8 * index, 8);
                    code |= (int)(mask >> byte & 1) << bit;
                }
            }
            out[begin + k] = scale * code + least;
        }
}
