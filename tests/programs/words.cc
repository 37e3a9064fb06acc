// Words: what C++ programs use of the standard library. Each rank takes its share of a generated text, counts words in a map and sends them
// to rank 0, which sorts them and prints the most frequent ones; then what it read from a file that it has written.
// The same output for any number of ranks. Arguments: words of the text (20000), a folder to write to (.).
#include <mpi.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Counts = std::map<std::string, long>;

// Something with virtual functions, a destructor that is seen, and a constructor that runs before main.
struct Voice {
    virtual ~Voice() = default;
    virtual std::string say(const std::string &word) const = 0;
};
struct Loud final : Voice {
    std::string say(const std::string &word) const override {
        std::string out(word);
        std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
        return out;
    }
};
const std::vector<std::string> syllables = {"ka", "lo", "mi", "ne", "ru", "ta", "vo", "sha"};

std::string word(std::uint32_t n) {
    std::uint32_t state = n * 2654435761u + 12345u;
    std::string out;
    for (unsigned i = 0; i < 1 + n % 3; i++) {
        state = state * 1664525u + 1013904223u;
        out += syllables[(state >> 24) * (state >> 24) / 256 % syllables.size()];
    }
    return out;
}

template <typename T> T total(const std::vector<std::pair<std::string, T>> &all) {
    return std::accumulate(all.begin(), all.end(), T{}, [](T sum, const auto &one) { return sum + one.second; });
}

std::string packed(const Counts &counts) {
    std::ostringstream out;
    for (const auto &[text, n] : counts)
        out << text << ' ' << n << '\n';
    return out.str();
}

void unpack(const std::string &text, Counts &counts) {
    std::istringstream in(text);
    std::string name;
    for (long n; in >> name >> n;)
        counts[name] += n;
}

// Writes a file and reads it back.
std::string again(const std::string &path, const std::string &text) {
    using File = std::unique_ptr<std::FILE, int (*)(std::FILE *)>;
    if (File out(std::fopen(path.c_str(), "w"), std::fclose); !out || std::fwrite(text.data(), 1, text.size(), out.get()) != text.size())
        return "";
    std::string read(text.size() + 1, '\0');
    File in(std::fopen(path.c_str(), "r"), std::fclose);
    read.resize(in ? std::fread(read.data(), 1, read.size(), in.get()) : 0);
    return read;
}

} // namespace

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const std::uint32_t length = argc > 1 ? static_cast<std::uint32_t>(std::stoul(argv[1])) : 20000;
    const std::string path = std::string(argc > 2 ? argv[2] : ".") + "/words.txt";

    Counts counts;
    for (std::uint32_t n = static_cast<std::uint32_t>(rank); n < length; n += static_cast<std::uint32_t>(ranks))
        counts[word(n)]++;
    if (rank != 0) {
        const std::string text = packed(counts);
        MPI_Send(text.data(), static_cast<int>(text.size()), MPI_CHAR, 0, 7, MPI_COMM_WORLD);
    } else {
        for (int from = 1; from < ranks; from++) {
            MPI_Status status;
            int bytes;
            MPI_Probe(from, 7, MPI_COMM_WORLD, &status);
            MPI_Get_count(&status, MPI_CHAR, &bytes);
            std::string text(static_cast<std::size_t>(bytes), '\0');
            MPI_Recv(text.data(), bytes, MPI_CHAR, from, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            unpack(text, counts);
        }
        std::vector<std::pair<std::string, long>> all(counts.begin(), counts.end());
        std::sort(all.begin(), all.end(), [](const auto &a, const auto &b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
        const std::unique_ptr<Voice> voice = std::make_unique<Loud>();
        std::cout << all.size() << " words, " << total(all) << " times\n";
        for (std::size_t i = 0; i < std::min<std::size_t>(5, all.size()); i++)
            std::cout << std::left << std::setw(10) << voice->say(all[i].first) << std::right << std::setw(6) << all[i].second << std::fixed << std::setprecision(3)
                      << std::setw(9) << 100.0 * static_cast<double>(all[i].second) / static_cast<double>(length) << " %\n";
        const std::string written = packed(counts), read = again(path, written);
        std::vector<std::string> lines;
        std::istringstream in(read);
        for (std::string line; std::getline(in, line);)
            lines.push_back(line);
        const auto longest = std::max_element(lines.begin(), lines.end(), [](const auto &a, const auto &b) { return a.size() < b.size(); });
        if (lines.size() != counts.size() || longest == lines.end()) {
            std::cerr << path << " can't be read again\n";
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        std::cout << "the longest of " << lines.size() << " lines: " << *longest << ", hash of all " << std::hex << [&] {
            std::uint64_t sum = 1469598103934665603u;
            for (const auto &line : lines)
                for (unsigned char c : line)
                    sum = (sum ^ c) * 1099511628211u;
            return sum;
        }() << std::endl;
    }
    MPI_Finalize();
}
