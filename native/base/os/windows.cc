// SPDX-License-Identifier: MIT
// Windows 8 and later.
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <io.h>
#include <windows.h>

#include <algorithm>
#include <bit>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/os/os.h"
#include "base/parking.h"

namespace edgellm::os {
namespace {

[[noreturn]] void fail(DWORD error) {
    throw std::system_error(static_cast<int>(error), std::system_category());
}

FileMapping map_handle(HANDLE file, uint64_t offset, uint64_t bytes) {
    LARGE_INTEGER length;
    if (!GetFileSizeEx(file, &length)) fail(GetLastError());
    const auto size = static_cast<uint64_t>(length.QuadPart);
    if (offset >= size || bytes > size - offset) fail(ERROR_INVALID_PARAMETER);
    const HANDLE section = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (section == nullptr) fail(GetLastError());
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    FileMapping mapping;
    mapping.bytes = static_cast<size_t>(bytes == 0 ? size - offset : bytes);
    const uint64_t begin = offset / info.dwAllocationGranularity * info.dwAllocationGranularity;
    mapping.base_bytes = mapping.bytes + static_cast<size_t>(offset - begin);
    mapping.base = MapViewOfFile(section, FILE_MAP_READ, static_cast<DWORD>(begin >> 32),
                                 static_cast<DWORD>(begin), mapping.base_bytes);
    const DWORD error = GetLastError();
    CloseHandle(section);  // the view keeps it
    if (mapping.base == nullptr) fail(error);
    mapping.data = static_cast<const uint8_t*>(mapping.base) + (offset - begin);
    return mapping;
}

}  // namespace

size_t page_size() {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

FileMapping map_file(const char* path) {
    const int n = MultiByteToWideChar(CP_UTF8, 0, path, -1, nullptr, 0);
    std::wstring wide(static_cast<size_t>(std::max(n, 1)), L'\0');
    if (n > 0) MultiByteToWideChar(CP_UTF8, 0, path, -1, wide.data(), n);
    const HANDLE file = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE) fail(GetLastError());
    try {
        const FileMapping mapping = map_handle(file, 0, 0);
        CloseHandle(file);
        return mapping;
    } catch (...) {
        CloseHandle(file);
        throw;
    }
}

FileMapping map_descriptor(int descriptor, uint64_t offset, uint64_t bytes) {
    const auto file = reinterpret_cast<HANDLE>(_get_osfhandle(descriptor));
    if (file == INVALID_HANDLE_VALUE) fail(ERROR_INVALID_HANDLE);
    return map_handle(file, offset, bytes);
}

void unmap_file(const FileMapping& mapping) {
    UnmapViewOfFile(mapping.base);
}

size_t memory_bytes() {
    MEMORYSTATUSEX status = {};
    status.dwLength = sizeof(status);
    return GlobalMemoryStatusEx(&status) ? static_cast<size_t>(status.ullTotalPhys) : 0;
}

size_t cache_bytes() {
    DWORD bytes = 0;
    GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> entries(bytes /
                                                              sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    if (entries.empty() || !GetLogicalProcessorInformation(entries.data(), &bytes)) return 0;
    size_t largest = 0;
    for (const auto& entry : entries) {
        if (entry.Relationship == RelationCache) largest = std::max<size_t>(largest, entry.Cache.Size);
    }
    return largest;
}

// The system sets the memory aside at once, and refuses it if RAM and page file are promised away.
void* map_zeros(size_t bytes) {
    return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void unmap(void* data, size_t) {
    VirtualFree(data, 0, MEM_RELEASE);
}

size_t huge_page_bytes() {
    return 0;
}

// Large pages need a privilege that users do not have.
void advise_huge_pages(void*, size_t) {}

// Unlocking pages that are not locked takes them out of the working set.
void drop_file_pages(const void* data, size_t bytes) {
    VirtualUnlock(const_cast<void*>(data), bytes);
}

void trim_heap() {
    HeapCompact(GetProcessHeap(), 0);
}

void on_torn_page(bool (*)(uintptr_t)) {}

bool replace_with_zeros(void*, size_t) {
    return false;
}

int64_t process_id() {
    return GetCurrentProcessId();
}

size_t usable_cpus() {
    DWORD_PTR process = 0, system = 0;
    // 0 for a process with CPUs in several groups of 64, which may use all of them.
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system) && process != 0) {
        return static_cast<size_t>(std::popcount(static_cast<uint64_t>(process)));
    }
    return std::max(1u, std::thread::hardware_concurrency());
}

ArmFeatures arm_features() {
    // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE, which older headers
    // lack.
    return {.dotprod = IsProcessorFeaturePresent(43) != 0, .i8mm = IsProcessorFeaturePresent(66) != 0};
}

int current_cpu() {
    PROCESSOR_NUMBER number;
    GetCurrentProcessorNumberEx(&number);
    return number.Group * 64 + number.Number;
}

// The system tells no such time, and its scheduler moves a thread that waits by itself.
int64_t waited_ns() {
    return -1;
}

bool move_off(std::span<const int>) {
    return false;
}

namespace {

// Import libraries of Windows' compilers do not agree on where these two calls are: they are looked up.
struct AddressCalls {
    using Wait = BOOL(WINAPI*)(volatile void*, void*, SIZE_T, DWORD);
    using Wake = void(WINAPI*)(void*);

    AddressCalls() {
        const HMODULE library = GetModuleHandleA("kernelbase.dll");
        if (library == nullptr) return;
        const auto found_wait = reinterpret_cast<void*>(GetProcAddress(library, "WaitOnAddress"));
        const auto found_wake = reinterpret_cast<void*>(GetProcAddress(library, "WakeByAddressAll"));
        if (found_wait == nullptr || found_wake == nullptr) return;
        wait = reinterpret_cast<Wait>(found_wait);
        wake = reinterpret_cast<Wake>(found_wake);
    }

    Wait wait = nullptr;
    Wake wake = nullptr;
};

const AddressCalls& address_calls() {
    static const AddressCalls calls;
    return calls;
}

}  // namespace

void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
    const AddressCalls& calls = address_calls();
    if (calls.wait == nullptr) return park_portably(word, value, time);
    const auto ms = std::max<int64_t>(1, std::chrono::ceil<std::chrono::milliseconds>(time).count());
    calls.wait(const_cast<std::atomic<uint32_t>*>(&word), &value, sizeof(value),
               static_cast<DWORD>(std::min<int64_t>(ms, INFINITE - 1)));
}

void wake_all(const std::atomic<uint32_t>& word) {
    const AddressCalls& calls = address_calls();
    if (calls.wake == nullptr) return unpark_all_portably(word);
    calls.wake(const_cast<std::atomic<uint32_t>*>(&word));
}

}  // namespace edgellm::os
