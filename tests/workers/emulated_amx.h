// AMX's tiles in plain C++, in the place of `native/amx.h`, where no processor has them. Of what attention uses.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

struct Amx {
    static bool allowed() { return true; }
    struct Config {
        void tile(int, int, int) {}
    };
    struct Use {
        explicit Use(const Config&) {}
        ~Use() {}
    };
};

static thread_local uint32_t emulated[8][16][16];

static float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

static void emulated_load(int tile, const void* from, int64_t stride) {
    for (int row = 0; row < 16; row++) std::memcpy(emulated[tile][row], (const uint8_t*)from + row * stride, 64);
}

static void emulated_store(int tile, void* to, int64_t stride) {
    for (int row = 0; row < 16; row++) std::memcpy((uint8_t*)to + row * stride, emulated[tile][row], 64);
}

// As Intel's manual has it: of the pairs, those at even places and those at odd ones are summed apart.
static void emulated_products(int sums, int left, int right) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            float even = 0, odd = 0;
            for (int pair = 0; pair < 16; pair++) {
                const uint32_t a = emulated[left][row][pair], b = emulated[right][pair][column];
                even = std::fma(float_of(a << 16), float_of(b << 16), even);
                odd = std::fma(float_of(a & 0xffff0000), float_of(b & 0xffff0000), odd);
            }
            const float sum = float_of(emulated[sums][row][column]) + (even + odd);
            std::memcpy(&emulated[sums][row][column], &sum, sizeof(sum));
        }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero(tile) std::memset(emulated[tile], 0, sizeof(emulated[tile]))
#define _tile_loadd(tile, from, stride) emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_store(tile, to, stride)
#define _tile_dpbf16ps(sums, left, right) emulated_products(sums, left, right)
