// Packed weights and activations. Here only: how they lie in memory, and how they get there.
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
constexpr int FULL = 16;            // of a tile of `linear_amx.h`

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
    bool full;  // tiles of FULL tokens, for `linear_amx.h`; codes and notes can be read for FULL tokens behind the last one
    int cells() const { return (inputs + CELL - 1) / CELL; }
    // How many tokens, in whole tiles, the second cache keeps from one block of rows to the next. With tiles of AMX products
    // are fast enough for that to matter.
    int at_once() const {
        constexpr int ROOM = 1 << 20;
        const int fit = ROOM / (cells() * (CELL + (int)sizeof(Notes))) / FULL * FULL;
        return !full ? tokens : fit > FULL ? fit : FULL;
    }
    // Some of the tokens of `full` ones, from the beginning of a tile on.
    Activations part(int from, int count) const {
        if (!full) return *this;
        const size_t cell = (size_t)from * cells();
        const int left = tokens - from;
        return {codes + cell * CELL, notes + cell, floats ? floats + cell * CELL : nullptr, inputs,
                count < left ? count : left, true};
    }
};

// Tokens are cut into as few tiles as can be. They are as even as can be, the larger ones first; or full but for the last.
struct Tiles {
    int count, size, larger, all;  // `larger` tiles have a token more than `size`
    explicit Tiles(const Activations& a) : all(a.tokens) {
        count = a.full ? (all + FULL - 1) / FULL : all <= TILE ? 1 : (all + MANY - 1) / MANY;
        size = a.full ? FULL : all / count;
        larger = a.full ? 0 : all % count;
    }
    int begin(int tile) const { return tile * size + (tile < larger ? tile : larger); }
    int tokens(int tile) const {
        const int n = size + (tile < larger);
        return begin(tile) + n < all ? n : all - begin(tile);
    }
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
        const Tiles tiles(a);
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

// Codes of a block, unpacked to 8 bits.
template <int BITS>
static void unpack(const uint8_t* record, int bytes, int groups, uint8_t* out) {
    for (int g = 0; g < groups; g++, record += bytes)
        for (int i = 0; i < 8; i++)
            for (int half = 0; half < HALVES; half++, out += 64) store_bytes(out, operand<BITS>(record, i, half));
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
