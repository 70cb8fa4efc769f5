// SPDX-License-Identifier: MIT
// Calls of the operating system do on this system what os.h says. Prints what failed and exits 1.
#include "base/os/os.h"

#include <bit>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
namespace os = edgellm::os;

int failures = 0;

void check(bool ok, const char* what) {
    if (ok) return;
    std::printf("%s\n", what);
    ++failures;
}

void test_memory() {
    const size_t page = os::page_size();
    check(page >= 4096 && std::has_single_bit(page), "a page is no power of two from 4096 on");
    check(os::memory_bytes() >= size_t{16} << 20, "the machine's memory is not known");
    const size_t huge = os::huge_page_bytes();
    check(huge == 0 || (huge > page && huge % page == 0), "a huge page is not made of whole pages");
    check(os::cache_bytes() < size_t{4} << 30, "the cache is larger than any");
    const size_t bytes = 8 * page;
    auto* data = static_cast<uint8_t*>(os::map_zeros(bytes));
    check(data != nullptr, "no memory");
    if (data == nullptr) return;
    os::advise_huge_pages(data, bytes);
    size_t sum = 0;
    for (size_t i = 0; i < bytes; ++i) sum += data[i];
    check(sum == 0, "new memory is not zero");
    data[0] = data[bytes - 1] = 1;
    check(data[0] + data[bytes - 1] == 2, "memory does not keep what is written");
    os::unmap(data, bytes);
    check(os::map_zeros(SIZE_MAX / 2 / page * page) == nullptr, "more memory than there is was promised");
    os::trim_heap();
}

void test_files(const char* path) {
    const os::FileMapping whole = os::map_file(path);
    check(whole.data != nullptr && whole.bytes > 4096, "this program's own file was not mapped");
    std::FILE* file = std::fopen(path, "rb");
    check(file != nullptr, "this program's own file was not opened");
    const uint64_t offset = 4001;
#if defined(_WIN32)
    const int descriptor = _fileno(file);
#else
    const int descriptor = fileno(file);
#endif
    const os::FileMapping part = os::map_descriptor(descriptor, offset, 90);
    std::fclose(file);
    check(part.bytes == 90 && std::memcmp(part.data, whole.data + offset, 90) == 0,
          "a part of a file differs");
    os::unmap_file(part);
    os::unmap_file(whole);
    bool refused = false;
    try {
        os::map_file("no/such/file");
    } catch (const std::system_error& error) {
        refused = error.code() == std::errc::no_such_file_or_directory;
    }
    check(refused, "a file that is not there was mapped");
}

void test_cpus() {
    const size_t n = os::usable_cpus();
    check(n >= 1 && n <= 65536, "the number of CPUs is not plausible");
    check(os::process_id() == os::process_id() && os::process_id() != 0, "the process has no number");
    const int cpu = os::current_cpu();
    check(cpu >= -1, "a CPU has a number below -1");
    check(os::waited_ns() >= -1, "a thread waited for less than no time");
    if (cpu < 0) return;
    const int taken[] = {cpu};
    // Another thread or the system may move this one in between.
    bool moved = false;
    for (int i = 0; i < 100 && !moved; ++i) moved = os::move_off(taken) && os::current_cpu() != cpu;
    check(!moved || n > 1, "a thread moved off the only CPU");
}

void test_sleep() {
    std::atomic<uint32_t> word{0};
    os::wait(word, 1, std::chrono::hours(1));  // returns at once: the word is another one
    const auto begin = Clock::now();
    os::wait(word, 0, milliseconds(1));
    check(Clock::now() - begin < std::chrono::minutes(1), "a sleep does not end by itself");
    std::thread sleeper([&] {
        while (word.load() == 0) os::wait(word, 0, std::chrono::hours(1));
    });
    std::this_thread::sleep_for(milliseconds(20));
    word.store(1);
    os::wake_all(word);
    sleeper.join();
}

}  // namespace

int main(int, char** arguments) {
    test_memory();
    test_files(arguments[0]);
    test_cpus();
    test_sleep();
    return failures == 0 ? 0 : 1;
}
