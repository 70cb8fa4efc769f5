// SPDX-License-Identifier: MIT
// Calls of the operating system that the engine makes. Nothing else under native/ includes a system's
// headers.
//
// One file per system defines them: linux.cc, macos.cc, windows.cc, and generic.cc for other POSIX systems.
// The three POSIX ones share posix.cc, and all but Linux portable.cc. Advice that a system does not take is
// ignored; a number that it does not tell is 0 or -1, as each function says.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace edgellm::os {

size_t page_size();
// Memory of the machine in bytes; 0 if unknown.
size_t memory_bytes();
// Last-level cache in bytes; 0 if unknown.
size_t cache_bytes();

// Zeroed pages, each resident only once it is touched; nullptr if the system refuses.
void* map_zeros(size_t bytes);
void unmap(void* data, size_t bytes);
// Size of a huge page that fills a whole table of pages: 2 MiB over pages of 4 KB, 32 MiB over 16 KB, 512 MiB
// over 64 KB; 0 if unknown.
size_t huge_page_bytes();
// Advice: back this memory with huge pages.
void advise_huge_pages(void* data, size_t bytes);
// Advice: drop these whole pages of a mapped file; they come back from the file if read again.
void drop_file_pages(const void* data, size_t bytes);
// Gives freed memory of the heap back to the system.
void trim_heap();

// A file, or a part of one, mapped for reading. It stays as it is when the file's name goes.
struct FileMapping {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
    void* base = nullptr;  // what is mapped: whole pages
    size_t base_bytes = 0;
};
// Both throw std::system_error with the system's reason. path: UTF-8.
FileMapping map_file(const char* path);
// bytes: 0 for all from `offset` on. The descriptor stays the caller's. std::errc::invalid_argument if the
// file has no such part.
FileMapping map_descriptor(int descriptor, uint64_t offset, uint64_t bytes);
void unmap_file(const FileMapping& mapping);

// Calls `mend` with the address when a page of a mapped file turns out to be past the file's end. `mend`
// returns true if the page can be read now; otherwise the fault takes its course. Runs inside a signal
// handler. No-op on Windows, where a mapped file cannot be shortened.
void on_torn_page(bool (*mend)(uintptr_t address));
// Puts zeros in place of mapped pages, from a page's begin; false if the system refuses. Safe in `mend`.
bool replace_with_zeros(void* page, size_t bytes);

// Number of this process; a forked child has another one.
int64_t process_id();
// CPUs that this process may use, at least 1.
size_t usable_cpus();
// Extensions of 64-bit Arm that the system lets programs use; none elsewhere, or where it does not say.
struct ArmFeatures {
    bool dotprod = false, i8mm = false;
};
ArmFeatures arm_features();
// CPU that the calling thread is on; -1 if unknown.
int current_cpu();
// Nanoseconds that the calling thread has been ready to run and did not; -1 if unknown.
int64_t waited_ns();
// Moves the calling thread to a CPU outside `taken`; the set of CPUs that it may use stays as it was. False
// if there is no such CPU, or the system does not let a thread choose.
bool move_off(std::span<const int> taken);

// Sleeps until wake_all is called for this word, but not if it differs from `value`, and no longer than
// `time`. May return early.
void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time);
void wake_all(const std::atomic<uint32_t>& word);

}  // namespace edgellm::os
