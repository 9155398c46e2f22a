// Memory that a kernel keeps between its calls.

#pragma once

#include <cstdint>
#include <cstdlib>

namespace {

// Memory of one thread.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { free(memory); }
    char* of(size_t bytes) {
        if (bytes > size) {
            free(memory);
            memory = aligned_alloc(64, (bytes + 63) & ~size_t(63));
            size = memory ? bytes : 0;
        }
        return static_cast<char*>(memory);
    }
};
// Lays arrays out one after the other, each on a cache line of its own.
struct Layout {
    size_t bytes = 0;
    size_t add(size_t count, size_t item) {
        size_t at = bytes;
        bytes += (count * item + 63) & ~size_t(63);
        return at;
    }
};

}  // namespace
