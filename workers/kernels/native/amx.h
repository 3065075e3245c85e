// AMX's tiles of this process and of a thread. Here only: leave to use them, and their shapes.
#pragma once
#include <cstdint>

#if defined(__AMX_TILE__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

struct Amx {
    // The kernel's leave for this process to use tiles, asked for once. Not had under old kernels and in some sandboxes.
    static bool allowed() {
        constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        static const bool granted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
        return granted;
    }

    struct alignas(64) Config {  // as the processor reads it
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
        void tile(int index, int count, int width) { rows[index] = (uint8_t)count, bytes[index] = (uint16_t)width; }
    };

    // While it lives the calling thread's tiles are set up; then they are given back, so that a switch of threads need
    // not keep them.
    class Use {
      public:
        explicit Use(const Config& config) { _tile_loadconfig(&config); }
        ~Use() { _tile_release(); }
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;
    };
};

#endif
