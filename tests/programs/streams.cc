// C++'s ways to files: streams, std::filesystem, and POSIX's beside them, while the rank is moved.
#include <mpi.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

static volatile sig_atomic_t seen;

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    std::ostringstream out; // printed by rank 0, in the order of ranks
    const fs::path folder = fs::path(argv[1]) / ("streams-" + std::to_string(rank));
    fs::create_directories(folder / "deep" / "er");

    // Written with a barrier in the middle, where a rank may be moved with the stream open.
    {
        std::ofstream table(folder / "table.txt");
        for (int n = 0; n < 200; n++) {
            table << std::setw(5) << n << ' ' << std::setprecision(17) << 1.0 / (n + 1) << '\n';
            if (n % 50 == 25)
                MPI_Barrier(MPI_COMM_WORLD);
        }
        if (!table)
            out << "the table is not written\n";
    }
    double sum = 0;
    {
        std::ifstream in(folder / "table.txt");
        int n;
        double value;
        while (in >> n >> value) {
            sum += n * value;
            if (n % 50 == 0)
                MPI_Barrier(MPI_COMM_WORLD);
        }
        out << rank << ": " << std::setprecision(17) << sum << (in.eof() ? ", to the end\n" : ", not to the end\n");
    }
    // In both directions, somewhere in the middle, binary.
    {
        std::fstream both(folder / "numbers.bin", std::ios::in | std::ios::out | std::ios::binary | std::ios::trunc);
        for (unsigned n = 0; n < 1000; n++)
            both.write(reinterpret_cast<const char *>(&n), sizeof n);
        both.seekp(400);
        const unsigned other = 0xabcdef;
        both.write(reinterpret_cast<const char *>(&other), sizeof other);
        both.seekg(396);
        unsigned three[3];
        both.read(reinterpret_cast<char *>(three), sizeof three);
        out << rank << ": " << three[0] << ' ' << three[1] << ' ' << three[2] << ", " << both.tellg() << " of ";
        both.seekg(0, std::ios::end);
        out << both.tellg() << '\n';
    }
    std::ifstream none(folder / "none");
    out << rank << ": " << none.is_open() << none.fail() << '\n';

    MPI_Barrier(MPI_COMM_WORLD);
    fs::copy_file(folder / "table.txt", folder / "deep" / "copy.txt");
    fs::rename(folder / "deep" / "copy.txt", folder / "deep" / "er" / "moved.txt");
    std::vector<std::string> names;
    for (const auto &entry : fs::recursive_directory_iterator(folder))
        names.push_back(fs::relative(entry.path(), folder).string() + (entry.is_directory() ? "/" : " " + std::to_string(entry.file_size())));
    std::sort(names.begin(), names.end());
    for (const auto &name : names)
        out << rank << ": " << name << '\n';
    fs::resize_file(folder / "numbers.bin", 100);
    out << rank << ": " << fs::file_size(folder / "numbers.bin") << ' ' << fs::exists(folder / "none") << ' ' << fs::is_empty(folder / "deep") << '\n';
    std::error_code error;
    const auto none_size = fs::file_size(folder / "none", error);
    out << rank << ": " << (error == std::errc::no_such_file_or_directory) << (none_size == static_cast<std::uintmax_t>(-1)) << '\n';
    try {
        fs::remove(folder / "deep"); // not empty
        out << "removed\n";
    } catch (const fs::filesystem_error &e) {
        out << rank << ": " << (e.code() == std::errc::directory_not_empty) << ' ' << e.path1().filename().string() << '\n';
    }

    // A file of a name that nobody has.
    std::string name = (folder / "new-XXXXXX").string();
    const int fd = mkstemp(name.data());
    struct stat s;
    out << rank << ": " << (fd >= 0 && write(fd, "abc", 3) == 3 && fstat(fd, &s) == 0 && s.st_size == 3) << (name.find("XXXXXX") == std::string::npos) << '\n';
    close(fd);
    char bad[] = "XXXXX";
    out << rank << ": " << (mkstemp(bad) == -1 && errno == EINVAL) << '\n';
    MPI_Barrier(MPI_COMM_WORLD);

    // Signals that it sends to itself, one of them while it is blocked.
    struct sigaction action = {}, old;
    action.sa_handler = [](int number) { seen = seen * 100 + number; };
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, nullptr);
    action.sa_flags = SA_RESETHAND;
    sigaction(SIGTERM, &action, nullptr);
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &before);
    raise(SIGUSR1);
    kill(getpid(), SIGTERM);
    out << rank << ": " << (seen == SIGTERM) << sigismember(&before, SIGUSR1);
    MPI_Barrier(MPI_COMM_WORLD);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    sigaction(SIGTERM, nullptr, &old);
    out << (seen == SIGTERM * 100 + SIGUSR1) << (old.sa_handler == SIG_DFL) << (kill(getpid(), 0) == 0) << (sigaction(SIGKILL, &action, nullptr) == -1 && errno == EINVAL) << '\n';

    const auto gone = fs::remove_all(folder);
    out << rank << ": " << gone << ' ' << fs::exists(folder) << '\n';
    std::string text = out.str();
    int size, length = static_cast<int>(text.size());
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank == 0) {
        std::cout << text;
        for (int from = 1; from < size; from++) {
            MPI_Recv(&length, 1, MPI_INT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            text.resize(length);
            MPI_Recv(text.data(), length, MPI_CHAR, from, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            std::cout << text;
        }
    } else {
        MPI_Send(&length, 1, MPI_INT, 0, 0, MPI_COMM_WORLD);
        MPI_Send(text.data(), length, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
    }
    MPI_Finalize();
}
