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
    const fs::path folder = fs::path(argv[1]) / ("streams-" + std::to_string(rank));
    fs::create_directories(folder / "deep" / "er");

    // Written with a barrier in the middle, where a rank may be moved with the stream open.
    {
        std::ofstream out(folder / "table.txt");
        for (int n = 0; n < 200; n++) {
            out << std::setw(5) << n << ' ' << std::setprecision(17) << 1.0 / (n + 1) << '\n';
            if (n % 50 == 25)
                MPI_Barrier(MPI_COMM_WORLD);
        }
        if (!out)
            std::cout << "the table is not written\n";
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
        std::cout << rank << ": " << std::setprecision(17) << sum << (in.eof() ? ", to the end\n" : ", not to the end\n");
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
        std::cout << rank << ": " << three[0] << ' ' << three[1] << ' ' << three[2] << ", " << both.tellg() << " of ";
        both.seekg(0, std::ios::end);
        std::cout << both.tellg() << '\n';
    }
    std::ifstream none(folder / "none");
    std::cout << rank << ": " << none.is_open() << none.fail() << '\n';

    MPI_Barrier(MPI_COMM_WORLD);
    fs::copy_file(folder / "table.txt", folder / "deep" / "copy.txt");
    fs::rename(folder / "deep" / "copy.txt", folder / "deep" / "er" / "moved.txt");
    std::vector<std::string> names;
    for (const auto &entry : fs::recursive_directory_iterator(folder))
        names.push_back(fs::relative(entry.path(), folder).string() + (entry.is_directory() ? "/" : " " + std::to_string(entry.file_size())));
    std::sort(names.begin(), names.end());
    for (const auto &name : names)
        std::cout << rank << ": " << name << '\n';
    fs::resize_file(folder / "numbers.bin", 100);
    std::cout << rank << ": " << fs::file_size(folder / "numbers.bin") << ' ' << fs::exists(folder / "none") << ' ' << fs::is_empty(folder / "deep") << '\n';
    std::error_code error;
    const auto none_size = fs::file_size(folder / "none", error);
    std::cout << rank << ": " << (error == std::errc::no_such_file_or_directory) << (none_size == static_cast<std::uintmax_t>(-1)) << '\n';
    try {
        fs::remove(folder / "deep"); // not empty
        std::cout << "removed\n";
    } catch (const fs::filesystem_error &e) {
        std::cout << rank << ": " << (e.code() == std::errc::directory_not_empty) << ' ' << e.path1().filename().string() << '\n';
    }

    // A file of a name that nobody has.
    std::string name = (folder / "new-XXXXXX").string();
    const int fd = mkstemp(name.data());
    struct stat s;
    std::cout << rank << ": " << (fd >= 0 && write(fd, "abc", 3) == 3 && fstat(fd, &s) == 0 && s.st_size == 3) << (name.find("XXXXXX") == std::string::npos) << '\n';
    close(fd);
    char bad[] = "XXXXX";
    std::cout << rank << ": " << (mkstemp(bad) == -1 && errno == EINVAL) << '\n';
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
    std::cout << rank << ": " << (seen == SIGTERM) << sigismember(&before, SIGUSR1);
    MPI_Barrier(MPI_COMM_WORLD);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    sigaction(SIGTERM, nullptr, &old);
    std::cout << (seen == SIGTERM * 100 + SIGUSR1) << (old.sa_handler == SIG_DFL) << (kill(getpid(), 0) == 0) << (sigaction(SIGKILL, &action, nullptr) == -1 && errno == EINVAL) << '\n';

    const auto gone = fs::remove_all(folder);
    std::cout << rank << ": " << gone << ' ' << fs::exists(folder) << '\n';
    MPI_Finalize();
}
