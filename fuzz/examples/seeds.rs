//! Writes the first inputs of each target into a folder: `seeds FOLDER`.

fn main() -> std::io::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args_os().nth(1).unwrap_or("seeds".into()));
    for target in tresor_fuzz::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for seed in tresor_fuzz::seeds(target.name) {
            std::fs::write(folder.join(blake3::hash(&seed).to_hex().as_str()), seed)?;
        }
    }
    Ok(())
}
